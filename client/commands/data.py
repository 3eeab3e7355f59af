"""`client check`, `predict` and the other commands on a hospital's own data. None sends it to the coordinator."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from client.site.config import DICOM, SiteConfig
from client.site.home import ClientHome
from client.site.predictions import note_prediction
from shared_model.core.device_words import DEVICES
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

if TYPE_CHECKING:  # it loads torch, and a status line must not wait for that
    from client.setup.check_patients import Source

KINDS = "cases, openkbp, openkbp128, gdp or dicom"
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
QuotaGb = Annotated[float, typer.Option(help="Most that the folder may hold, in GB (10^9 bytes).")]
TlsCa = Annotated[Path | None, typer.Option(help="DICOM TLS: authority of the other side's certificate (PEM).")]
TlsCert = Annotated[Path | None, typer.Option(help="DICOM TLS: this node's certificate (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(help="DICOM TLS: this node's private key (PEM, 0600).")]
MaybeHome = Annotated[Path | None, typer.Option("--home", help="The site's folder, if there is one.")]


def check(
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the patients. Default: the home's.")] = None,
    home_folder: MaybeHome = None,
    kind: Annotated[str | None, typer.Option(help=f"{KINDS}. Default: told from the files.")] = None,
    names: Annotated[Path | None, typer.Option(help="The site's file of structure names (dicom, gdp).")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report to this HTML file.")] = None,
    show_ids: Annotated[bool, typer.Option("--show-ids", help="Also show the hospital's own ids and files.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the coordinator.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of processes that read patients.")] = 2,
    as_json: AsJson = False,
) -> int:
    """Check the patients, the machine and, with --home, keys, policy and coordinator. Exit code 0: ready, 2: not."""
    from client.setup import check as preflight
    from shared_model.adapter.envelope import Envelope

    home = None if home_folder is None else ClientHome.load(home_folder)
    source = source_of(data, home, kind, names)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("patients", total=None)
        report = preflight.check(
            source, home, Envelope.of_bundled(), workers=workers, offline=offline,
            seen=lambda done, total: bars.update(bar, completed=done, total=total),
        )  # fmt: skip
    if home is not None and data is None:
        preflight.keep(home, report)
    if html is not None:
        write_text(html, preflight.page(report, show_ids=show_ids).html(), mode=ORDINARY)
    _print(report.record(show_ids=show_ids) if as_json else preflight.lines(report, show_ids=show_ids))
    return 0 if report.ready else InputError.exit_code


def source_of(data: Path | None, home: ClientHome | None, kind: str | None, names: Path | None) -> Source:
    """Return the patients to look at: those in ``data``, or else the home's. InputError when neither is given."""
    from client.data.kinds import find_kind
    from client.names.rules import NameRules
    from client.setup.check_patients import Source
    from client.site.pseudonyms import Pseudonyms

    config = None if home is None else SiteConfig.load(home.site_config)
    if data is None and config is None:
        raise InputError("check: expected --data (a folder of patients) or --home (a site's folder)")
    root = data if data is not None else config.root if config is not None else Path()
    if kind is None:
        kind = config.data if data is None and config is not None else find_kind(root)
    at_home = config is not None and config.data == DICOM and root == config.root
    pseudonyms = Pseudonyms.from_file(config.pseudonyms) if at_home and config and config.pseudonyms else None
    rules = NameRules.load(names or (config.names if config is not None else None))
    return Source(kind=kind, root=root, pseudonyms=pseudonyms, rules=rules)


def check_folder(out: Path) -> None:
    """Raise InputError unless ``out`` is new or empty, so that nothing is overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty; choose a new folder (nothing was changed)")


def predict(
    study: Annotated[Path, typer.Argument(help="One patient's .npz, or a folder with the DICOM files of one plan.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for dose, DVHs and report.")],
    home_folder: MaybeHome = None,
    adapter: Annotated[Path | None, typer.Option(help="Default: the home's adopted one, or the bundled one.")] = None,
    private: Annotated[Path | None, typer.Option(help="File that `client align` made. Default: the home's.")] = None,
    mean_of: Annotated[int | None, typer.Option(help="Draw so many samples and take their mean. Default: 1.")] = None,
    steer: Annotated[bool, typer.Option("--steer", help="Move the dose to what the scorecard asks of plans.")] = False,
    best_of: Annotated[int | None, typer.Option(help="Best by the scorecard of so many plan-like doses.")] = None,
    scorecard: Annotated[Path | None, typer.Option(help="For --steer, --best-of (YAML). Default: the home's.")] = None,
    case: Annotated[str | None, typer.Option(help="The plan's case id, if the folder holds several plans.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler. Default: 1 of one sample, else 4.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Predict once, not the average of two predictions.")] = False,
    device: Annotated[str | None, typer.Option(help=f"{DEVICES}. Default: the home's, or auto.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same dose.")] = 0,
    names: Annotated[Path | None, typer.Option(help="Structure names (dicom, gdp); default: the home's.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help=f"{KINDS}. Default: told from the files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the dose of one plan and write RTDOSE, DVHs and a report. Refuse a plan far outside the training data."""
    from client.adapters import in_use as preference
    from client.names.rules import NameRules
    from client.prediction.files import write_answer
    from client.prediction.predict import Predictor, Sampled
    from client.prediction.preferred import Preference
    from client.prediction.subject import load_subject
    from client.site.pseudonyms import Pseudonyms

    if best_of is not None and steer:
        raise InputError("predict: expected --steer or --best-of, not both")
    if scorecard is not None and best_of is None and not steer:
        raise InputError("predict: --scorecard says how to choose; give --steer or --best-of N beside it")
    check_folder(out)
    home = None if home_folder is None else ClientHome.load(home_folder)
    config = None if home is None else SiteConfig.load(home.site_config)
    wanted = None
    if steer or best_of is not None:
        card = preference.preferring(preference.card_in_use(home, scorecard))
        wanted = Preference(card_of=card, best_of=best_of)
    shared = preference.adapter_in_use(home, adapter)
    own = preference.private_in_use(home, shared, private)
    build = preference.model_with(own)
    samples = 1 if mean_of is None else mean_of
    steps = steps if steps is not None else 1 if samples == 1 else 4
    how = Sampled(samples=samples, steps=steps, seed=seed, twice=not once, preference=wanted)
    predictor = Predictor(shared, build, device or (config.device if config is not None else "auto"))
    salt = config.pseudonyms if config is not None else None
    rules = NameRules.load(names or (config.names if config is not None else None))
    subject = load_subject(study, case, None if salt is None else Pseudonyms.from_file(salt), rules, kind)
    told = ["with this site's private adapter: aligned to its own scorecard"] if own is not None else []
    answer = predictor.predict(subject.case, how, [*told, *subject.notes])
    record = write_answer(out, answer, predictor, subject.origin)
    if home is not None:
        note_prediction(home, out, record["case"])
    lines = [f"case {record['case']}: {', '.join(record['files'])} in {out}"]
    lines += [f"  {name}: {value:.2f} Gy" for name, value in record["metrics_gy"].items()]
    lines += [f"  note: {note}" for note in record["notes"]]
    _print(record if as_json else [*lines, f"{answer.seconds:.1f} s, at most {answer.peak_mb:.0f} MB"])


def forget(
    patient: Annotated[str, typer.Argument(help="The patient's pseudonym, as `client check` shows it.")],
    home_folder: Annotated[Path, typer.Option("--home", help="The site's folder.")],
    as_json: AsJson = False,
) -> None:
    """Remove a patient from the site's lists and derived files, and say what cannot be undone."""
    from client.setup import forget as forgetting

    done = forgetting.forget(ClientHome.load(home_folder), patient)
    lines = [f"{patient}: {len(done.cases)} cases off the lists, {done.deleted} derived files deleted. What stays:"]
    _print(done.record() if as_json else [*lines, *(f"  {line}" for line in done.stays)])


def receive(
    folder: Annotated[Path, typer.Argument(help="Folder for the received files, with one subfolder a study.")],
    senders: Annotated[list[str], typer.Option("--from", help="AE title that may send. Repeat the option for more.")],
    ae_title: Annotated[str, typer.Option(help="This node's AE title.")] = "FEDKT3D",
    host: Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 11112,
    quota_gb: QuotaGb = 50.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Receive studies from allowed DICOM systems (C-STORE) until SIGTERM or Ctrl-C."""
    from client.pacs import receive as receiving
    from client.pacs.link import Tls

    tls = Tls.of(tls_ca, tls_cert, tls_key)
    intake = receiving.Intake(
        folder=folder, allowed=tuple(senders), ae_title=ae_title, host=host, port=port, quota_gb=quota_gb, tls=tls
    )
    store = receiving.receive(intake, lambda line: print(line, flush=True), (signal.SIGTERM, signal.SIGINT))
    print(f"stopped; {store.stored} instances received, {store.refused} refused")


def pull(
    url: Annotated[str, typer.Argument(help="DICOMweb address of the archive.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the files, with one subfolder a study.")],
    patient_id: Annotated[str, typer.Option(help="Fetch all studies of this patient.")] = "",
    study_uid: Annotated[str, typer.Option(help="One study.")] = "",
    login: Annotated[Path | None, typer.Option(help="File that holds one line: user:password.")] = None,
    token: Annotated[Path | None, typer.Option(help="File that holds one line: a bearer token.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the archive's certificate authority.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait for a byte, in seconds.")] = 120.0,
    quota_gb: QuotaGb = 50.0,
) -> None:
    """Fetch a patient's studies from an archive (DICOMweb)."""
    from client.pacs import pull as pulling
    from client.pacs.receive import Store

    store = Store(folder, quota_gb)
    archive = pulling.Archive(url=url, login=login, token=token, ca=ca, timeout_s=timeout_s)
    studies = pulling.pull(archive, store, patient_id=patient_id, study_uid=study_uid)
    print(f"{studies} studies, {store.stored} instances in {folder}")


def retrieve(
    archive: Annotated[str, typer.Argument(help="AE@HOST:PORT of the archive.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the files, with one subfolder a study.")],
    patient_id: Annotated[str, typer.Option(help="Fetch all studies of this patient.")] = "",
    study_uid: Annotated[str, typer.Option(help="One study.")] = "",
    ae_title: Annotated[str, typer.Option(help="This node's AE title, which the archive sends to.")] = "FEDKT3D",
    host: Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on, as the archive knows it.")] = 11112,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait for an answer, in seconds.")] = 300.0,
    quota_gb: QuotaGb = 50.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Find a patient's studies in an archive and have them sent here (C-FIND, C-MOVE)."""
    from client.pacs.link import Peer, Tls
    from client.pacs.receive import Intake
    from client.pacs.retrieve import retrieve as fetch

    tls = Tls.of(tls_ca, tls_cert, tls_key)
    peer = Peer.parse(archive, ae_title, tls, option="retrieve")
    senders = (peer.ae_title,)
    intake = Intake(folder=folder, allowed=senders, ae_title=ae_title, host=host, port=port, quota_gb=quota_gb, tls=tls)
    studies, store = fetch(peer, intake, patient_id=patient_id, study_uid=study_uid, seconds=timeout_s)
    print(f"{studies} studies, {store.stored} instances in {folder}")


def send(
    files: Annotated[list[Path], typer.Argument(help="dose.dcm of `client predict`.")],
    peer: Annotated[str, typer.Option("--to", help="AE@HOST:PORT of the planning system or archive.")],
    ae_title: Annotated[str, typer.Option(help="This node's AE title.")] = "FEDKT3D",
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Send predicted doses to a DICOM system (C-STORE)."""
    from client.pacs import send as sending
    from client.pacs.link import Peer, Tls

    notes = sending.send(files, Peer.parse(peer, ae_title, Tls.of(tls_ca, tls_cert, tls_key)))
    _print([f"{len(files)} sent to {peer}", *(f"  note: {note}" for note in notes)])


def add_to(app: typer.Typer) -> None:
    """Make these functions commands of ``app``, under their own names."""
    for command in (check, predict, forget, receive, pull, retrieve, send):
        app.command()(command)


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))
