"""The commands of `client` that work with a scorecard: scorecard, align, adopt, report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

# torch is imported inside the commands: `client status` stays quick.
if TYPE_CHECKING:
    from client.adapters.acceptance import Margins
    from client.adapters.align import AlignJob
    from client.adapters.align import Progress as Report
    from client.adapters.settings import AlignSettings
    from client.site.home import ClientHome

Card = Annotated[Path, typer.Option("--scorecard", help="The clinic's scorecard (YAML; docs/scorecards.md).")]
Data = Annotated[
    Path,
    typer.Option(help="A site.yaml, or a folder of case files, OpenKBP or GDP-HMM (last fifth by name held back)."),
]
Adapter = Annotated[Path, typer.Option(help="Shared adapter (.safetensors), or the word default: the bundled one.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; they stay at the site.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of an alignment setting, such as beta=0.1.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (scorecard, align, adopt, report):
        app.command()(command)


def scorecard(
    card: Annotated[Path, typer.Argument(help="A scorecard (YAML), or with --out another program's JSON.")],
    out: Annotated[Path | None, typer.Option(help="Import the scorecard and write it here, for review.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="THEIRS=TG263: a structure's name in the imported file, and ours.")
    ] = None,
) -> None:
    """Check a scorecard, or import one from PlanScoreCard or ProKnow JSON. An error names the wrong line."""
    from shared_model.scoring.scorecard_import import import_scorecard
    from shared_model.scoring.scorecard_read import read_scorecard

    if out is None:
        found = read_scorecard(card)
    else:
        if out.exists():
            raise InputError(f"{out}: exists already; choose another name")
        found, text = import_scorecard(card, dict(_pair(one, "--name") for one in name or []))
        write_text(out, text, mode=ORDINARY)
    for c in found.criteria:
        bound = "" if c.constraint is None else f", {'at least' if c.higher else 'at most'} {c.constraint:g}"
        print(f"{c.weight:6g}  {c.label} ({c.unit}{bound})")
    print(f"{found.name} {found.version}: {len(found.criteria)} criteria, sha256 {found.sha256}")


def align(
    scorecard: Card,
    data: Data,
    adapter: Adapter,
    out: Out,
    epochs: Annotated[int | None, typer.Option(min=0, help="Most passes over the training patients.")] = None,
    patients: Annotated[int, typer.Option(min=0, help="Use at most so many training patients. 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train a private adapter on the clinic's scorecard. It never leaves this machine. Run it again to go on."""
    from client.adapters.align import align as run
    from client.adapters.align import align_files, data_site, limit_training

    given = align_settings(settings or [], epochs=epochs, seed=seed)
    job = align_files(scorecard, adapter, limit_training(data_site(data), patients), out, given)
    with _show_progress(job) as progress:
        summary = run(job, progress)
    print(json.dumps(summary, indent=1) if as_json else _screen(summary, out))


def adopt(
    adapter: Annotated[Path, typer.Argument(help="Shared adapter that the coordinator published.")],
    home_folder: Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")],
    scorecard: Annotated[Path | None, typer.Option("--scorecard", help="Default: scorecard.yaml in the home.")] = None,
    patients: Annotated[int, typer.Option(min=0, help="Align on at most so many training patients. 0: all.")] = 0,
    settings: Settings = None,
    margin: Annotated[list[str] | None, typer.Option(help="KEY=GY: a margin of client/adapters/acceptance.py.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test an adapter on held-back patients. If it is not worse, take it into use and align it to the site's scorecard.

    `client start` may run meanwhile. A refused adapter changes nothing and ends with exit code 3.
    """
    from client.adapters import adopt as site_adopt
    from client.site.home import ClientHome

    home = ClientHome.load(home_folder)
    given = align_settings(settings or [])
    adopted = site_adopt.adopt(home, adapter, _margins(margin or []), lambda line: Console(stderr=True).print(line))
    record: dict[str, Any] = {"adapter_sha256": adopted.sha256, "acceptance": adopted.verdict.record(), "align": None}
    lines = [f"adopted {adopted.adapter} ({adopted.verdict.reason})"]
    card = scorecard or site_adopt.own_card(home)
    if scorecard is not None or card.is_file():
        out = home.private_adapters / adopted.sha256[:16]
        record["align"] = _align_in(home, card, adopted.adapter, out, patients, given)
        lines.append(_screen(record["align"], out))
    else:
        lines.append(f"no scorecard: put the clinic's scorecard at {card} to align the model to it")
    print(json.dumps(record, indent=1) if as_json else "\n".join(lines))


def _margins(pairs: Sequence[str]) -> Margins:
    from client.adapters.acceptance import Margins

    known = [f.name for f in fields(Margins) if f.name.endswith("_gy")]
    values: dict[str, Any] = {}
    for key, text in (_pair(pair, "--margin") for pair in pairs):
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = -1.0
        if key not in known or not 0 <= values[key] <= 100:
            raise InputError(f"--margin {key}={text}: expected 0 to 100 Gy for one of {', '.join(known)}")
    return Margins(**values)


def _align_in(
    home: ClientHome, card: Path, adapter: Path, out: Path, patients: int, given: AlignSettings
) -> dict[str, Any]:
    from client.adapters.align import align as run
    from client.adapters.align import align_files, limit_training
    from client.site.config import SiteConfig
    from privacy.flower.processes import sole_instance

    job = align_files(card, adapter, limit_training(SiteConfig.load(home.site_config), patients), out, given)
    job = replace(job, replaces=True)  # the shared adapter alone names the folder, not the scorecard or the patients
    with sole_instance(home.folder / "state" / "align.lock", "an alignment"), _show_progress(job) as progress:
        return run(job, progress)


def report(
    scorecard: Card,
    data: Data,
    adapter: Adapter,
    out: Out,
    private: Annotated[Path | None, typer.Option(help="private.safetensors of `client align`.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Number of patients to draw.")] = 3,
    candidates: Annotated[
        int, typer.Option(min=0, max=64, help="Plan-like doses (head and neck); 0: no steering.")
    ] = 16,
    as_json: AsJson = False,
) -> None:
    """Score held-back patients by a card: reference, shared, aligned, steered; report.html and report.json."""
    from client.adapters.align import align_files, data_site
    from client.adapters.report import drop_training
    from client.adapters.report import report as write
    from client.adapters.settings import AlignSettings
    from shared_model.adapter.private import PrivateAdapter

    job = drop_training(align_files(scorecard, adapter, data_site(data), out, AlignSettings()))
    if not job.site.validation:
        raise InputError(f"{data}: no held-back patient; list some under validation")
    with _show_progress(job) as progress:
        done = 0

        def count(patients: int) -> None:
            nonlocal done
            done += patients
            progress("patients", done, len(job.site.validation), {})

        record = write(job, None if private is None else PrivateAdapter.load(private), pictures, candidates, count)
    if as_json:
        print(json.dumps(record, indent=1))
        return
    for name, means in record["means"].items():
        print(f"{name:9} score {means['score']:.2f}, MAE {means['mae_ref5_gy']:.2f} Gy")
    print(f"report    {out / 'report.html'}")


def align_settings(pairs: Sequence[str], **given: int | None) -> AlignSettings:
    """The default settings with KEY=VALUE overrides; InputError names a wrong one."""
    from client.adapters.settings import AlignSettings

    default = AlignSettings()
    types: dict[str, type] = {f.name: type(getattr(default, f.name)) for f in fields(default)}
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for pair in pairs:
        key, text = _pair(pair, "--set")
        if key not in types:
            raise InputError(f"--set {key}: unknown; expected one of {', '.join(types)}")
        try:
            values[key] = types[key](text)
        except ValueError:
            raise InputError(f"--set {key}={text}: expected a {types[key].__name__}") from None
    return replace(default, **values)


def _pair(text: str, option: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key or not value:
        raise InputError(f"{option} {text}: expected KEY=VALUE")
    return key, value


@contextmanager
def _show_progress(job: AlignJob) -> Iterator[Report]:
    """Show progress bars on standard error; a log file gets one line an epoch."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    def progress(what: str, done: int, total: int, numbers: dict[str, float]) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, note="")
        note = f"score {numbers['score']:.2f}, MAE {numbers['mae_ref5_gy']:.3f} Gy" if "score" in numbers else ""
        if note and not bars.console.is_terminal:
            bars.console.print(f"epoch {done} of {total}: {note}")
        bars.update(tasks[what], completed=done)
        if note:
            bars.update(tasks[what], note=note)

    with bars:
        yield progress


def _screen(summary: dict[str, Any], out: Path) -> str:
    before, after = summary["before"], summary["after"]
    return (
        f"held-back patients: score {before['score']:.2f} -> {after['score']:.2f}, "
        f"MAE {before['mae_ref5_gy']:.3f} -> {after['mae_ref5_gy']:.3f} Gy\nsummary   {out / 'summary.json'}"
    )
