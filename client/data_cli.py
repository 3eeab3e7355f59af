"""`client check`, `predict` and what else the hospital does with its own data; nothing here sends any of it away."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from client.home import ClientHome
from client.site import SiteConfig
from shared_model.errors import InputError

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
MaybeHome = Annotated[Path | None, typer.Option("--home", help="The site's folder, where there is one.")]


def check(
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the patients; default: the home's.")] = None,
    home_folder: MaybeHome = None,
    kind: Annotated[
        str | None, typer.Option(help="cases, openkbp, openkbp128 or dicom; default: what it looks like.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="The site's file of structure names (DICOM).")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page to this file.")] = None,
    show_ids: Annotated[bool, typer.Option("--show-ids", help="Add the hospital's own ids and file names.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the coordinator.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that read patients.")] = 2,
    as_json: AsJson = False,
) -> int:
    """Look at the patients, the machine and, in a home, keys, policy and coordinator. Exit code 0: ready, 2: not."""
    from client import preflight
    from client.page import write_text
    from shared_model.envelope import Envelope
    from shared_model.manifest import DEFAULT_ADAPTER, load_adapter

    home = None if home_folder is None else ClientHome.load(home_folder)
    source = _source(data, home, kind, names)
    envelope = Envelope.from_card(load_adapter(DEFAULT_ADAPTER)[2])
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("patients", total=None)
        report = preflight.check(
            source, home, envelope, workers=workers, offline=offline,
            seen=lambda done, total: bars.update(bar, completed=done, total=total),
        )  # fmt: skip
    if html is not None:
        write_text(html, preflight.page(report, show_ids=show_ids).html())
    _print(report.record(show_ids=show_ids) if as_json else preflight.lines(report, show_ids=show_ids))
    return 0 if report.ready else InputError.exit_code


def _score_of(scorecard: Path | None) -> Any:
    return None


def _source(data: Path | None, home: ClientHome | None, kind: str | None, names: Path | None) -> Any:
    from client.check_data import Source, found_kind
    from client.name_rules import NameRules

    config = None if home is None else SiteConfig.load(home.site_config)
    if data is None and config is None:
        raise InputError("check: expected --data (a folder of patients) or --home (a site's folder)")
    root = data if data is not None else config.root if config is not None else Path()
    if kind is None:
        kind = config.data if data is None and config is not None else found_kind(root)
    return Source(kind=kind, root=root, rules=NameRules.load(names))


def predict(
    study: Annotated[Path, typer.Argument(help="A case file (.npz), or a folder with the DICOM files of one plan.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for dose, DVHs and report.")],
    adapter: Annotated[Path | None, typer.Option(help="A .safetensors; default: the bundled one.")] = None,
    mean_of: Annotated[int | None, typer.Option(help="Samples whose mean is the dose; default 4.")] = None,
    best_of: Annotated[int | None, typer.Option(help="Samples of which the best by --scorecard is the dose.")] = None,
    scorecard: Annotated[Path | None, typer.Option(help="A scorecard (YAML), for --best-of.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the sampler.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same dose.")] = 0,
    names: Annotated[Path | None, typer.Option(help="The site's file of structure names (DICOM).")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the dose of one plan: RTDOSE, DVHs, report; refused, with the reason, far outside of training."""
    from client.name_rules import NameRules
    from client.predict import Predictor, Sampled
    from client.prediction_files import check_folder, write_answer
    from client.subject import load_subject
    from shared_model.manifest import DEFAULT_ADAPTER

    if mean_of is not None and best_of is not None:
        raise InputError("predict: expected --mean-of or --best-of, not both")
    if (best_of is None) != (scorecard is None):
        raise InputError("predict: --best-of and --scorecard go together: the best is the one that the card likes most")
    check_folder(out)
    how = Sampled(samples=best_of or mean_of or 4, steps=steps, seed=seed, score_of=_score_of(scorecard))
    predictor = Predictor(adapter or DEFAULT_ADAPTER)
    subject = load_subject(study, rules=NameRules.load(names))
    answer = predictor.predict(subject.case, how, subject.notes)
    record = write_answer(out, answer, predictor, subject.origin)
    lines = [f"case {record['case']}: {', '.join(record['files'])} in {out}"]
    lines += [f"  {name}: {value:.2f} Gy" for name, value in record["metrics_gy"].items()]
    lines += [f"  note: {note}" for note in record["notes"]]
    _print(record if as_json else [*lines, f"{answer.seconds:.1f} s, at most {answer.peak_mb:.0f} MB"])


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))
