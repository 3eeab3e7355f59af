"""The `simulate` command; see `simulate --help`. Overrides are Hydra's, as in `rounds.count=3`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from server.config.settings_help import command_with_settings
from shared_model.core.command import add_version, run_command
from shared_model.core.errors import InputError
from simulations.reports import card_command
from simulations.settings.settings_help import run_help

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Simulated hospitals on one machine.")
add_version(app, "simulate")
card_command.add_to(app)
S = TypeVar("S")
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: key=value")]


def progress_bars() -> Progress:
    """Progress bars with counts, time and a free text column."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


def _show(study: Callable[[S, Progress], str], settings: S) -> None:
    """Run a study under progress bars and print what it returns."""
    with progress_bars() as bars:
        report = study(settings, bars)
    print(report)


@app.command(cls=command_with_settings("simulate run", run_help))
def run(
    overrides: Overrides = None,
    cfg: Annotated[
        Literal["job"] | None, typer.Option("--cfg", help="job: print the whole configuration and stop.")
    ] = None,
) -> None:
    """Train federated, local-only and centralised models and compare them; writes tables, pictures and the adapter."""
    from simulations.settings.commands import run_configuration, run_settings
    from simulations.studies.study import run_studies

    if cfg:
        print(run_configuration(overrides or [])[1], end="")
        return
    _show(run_studies, run_settings(overrides or []))


@app.command()
def evaluate(overrides: Overrides = None) -> None:
    """Score an adapter on a cohort; writes summary.json with `metrics`."""
    from simulations.settings.commands import evaluate_settings
    from simulations.studies.evaluate import evaluate_adapter

    _show(evaluate_adapter, evaluate_settings(overrides or []))


@app.command()
def ablation(overrides: Overrides = None) -> None:
    """Train each variant of a list (list=NAME: any of simulations/conf/lists) with each seed; goes on when repeated."""
    from simulations.series.ablation import run_ablation
    from simulations.settings.series import ablation_settings

    _show(run_ablation, ablation_settings(overrides or []))


@app.command()
def transfer(overrides: Overrides = None) -> None:
    """Show what each prior is worth by fine-tuning from it. A stopped command continues when repeated."""
    from simulations.series.transfer import run_transfer
    from simulations.settings.series import transfer_settings

    _show(run_transfer, transfer_settings(overrides or []))


@app.command()
def tradeoff(overrides: Overrides = None) -> None:
    """Train the network that moves a predicted dose as plans differ. A stopped command continues when repeated."""
    from simulations.studies.tradeoff import tradeoff_settings, train_tradeoff

    _show(train_tradeoff, tradeoff_settings(overrides or []))


@app.command()
def sampling(overrides: Overrides = None) -> None:
    """Compare numbers of sampling steps, and the spread of candidates with their error."""
    from simulations.studies.sampling import compare_steps, sampling_settings

    _show(compare_steps, sampling_settings(overrides or []))


@app.command()
def poison(overrides: Overrides = None) -> None:
    """Let one hospital lie in a federation under secure aggregation, with and without the check on public patients."""
    from simulations.series.poison import run_poison
    from simulations.settings.series import poison_settings

    _show(run_poison, poison_settings(overrides or []))


@app.command()
def faults(overrides: Overrides = None) -> None:
    """Put a small federation through each fault (kills, cuts, slow, lying, silent sites, a hostile coordinator)."""
    from simulations.faults.run import run_faults
    from simulations.settings.faults import faults_settings

    print(run_faults(faults_settings(overrides or [])))


@app.command()
def scorecards(overrides: Overrides = None) -> None:
    """Align one shared adapter to each hospital's own scorecard. A stopped command continues when repeated."""
    from simulations.settings.scorecards import scorecards_settings
    from simulations.studies.scorecards import run_scorecards

    _show(run_scorecards, scorecards_settings(overrides or []))


@app.command()
def baselines(overrides: Overrides = None) -> None:
    """Train simple models (constant, atlas, boosting, ridge, U-Net, voxel network) and score them as ours are."""
    from simulations.settings.commands import baselines_settings
    from simulations.studies.baselines import run_baselines

    _show(run_baselines, baselines_settings(overrides or []))


@app.command()
def audit(overrides: Overrides = None) -> None:
    """Audit the deployed release: noise energy, empirical epsilon of one run, membership and inversion attacks."""
    from simulations.studies.audit import audit_settings, run_audit

    print(run_audit(audit_settings(overrides or [])))


@app.command("private-base")
def private_base(overrides: Overrides = None) -> None:
    """Fit a linear dose by private steps along phantom directions, at several epsilons, and score it."""
    from simulations.studies.private_base import private_base_settings, run_private_base

    print(run_private_base(private_base_settings(overrides or [])))


@app.command("private-cohorts")
def private_cohorts(overrides: Overrides = None) -> None:
    """How many numbers can learn under patient-level noise, by the size of the cohort (phantoms)."""
    from simulations.studies.private_cohorts import private_cohorts_settings, run_private_cohorts

    with progress_bars() as bars:
        report = run_private_cohorts(private_cohorts_settings(overrides or []), bars)
    print(report)


@app.command("phantom-base")
def phantom_base(
    out: Annotated[Path, typer.Option(help="Folder for public.npz and card.json")],
    phantoms: Annotated[int, typer.Option(min=2, max=1000, help="Phantom patients of each of four styles")] = 12,
    directions: Annotated[int, typer.Option(min=1, max=200, help="Numbers that hospitals may add")] = 64,
) -> None:
    """Learn the public part of model.base=phantom from phantom patients."""
    from simulations.studies.private_base import write_public_base

    print(write_public_base(out, phantoms, directions))


@app.command("public-set")
def public_set(overrides: Overrides = None) -> None:
    """Make a file of public patients on whom a coordinator judges every round (rounds.public_cases)."""
    from simulations.studies.public_set import public_set_settings, write_public_set

    print(write_public_set(public_set_settings(overrides or [])))


@app.command()
def convert(overrides: Overrides = None) -> None:
    """Convert OpenKBP as it is downloaded (CSV files) for all other commands; goes on where it was stopped."""
    from simulations.data.convert import SaidProgress
    from simulations.data.convert import convert as convert_clone
    from simulations.settings.convert import convert_settings

    settings = convert_settings(overrides or [])
    assert settings.data.root is not None
    print(convert_clone(settings.data.root, settings.out, SaidProgress()).table())


@app.command()
def train(overrides: Overrides = None) -> None:
    """Train the U-shaped network on all training patients, in legs; the same command goes on where it stopped."""
    from simulations.studies.train_backbone import train_backbone, train_settings

    settings = train_settings(overrides or [])
    with progress_bars() as bars:
        report = train_backbone(settings, bars)
    if report:
        print(report)


@app.command()
def pretrain(overrides: Overrides = None) -> None:
    """Train a prior of the bundled size on procedural video or phantom patients and write it with its card."""
    from simulations.settings.pretrain import pretrain_settings
    from simulations.studies.pretrain import pretrain as train_prior

    settings = pretrain_settings(overrides or [])
    with progress_bars() as bars:
        tasks = {
            "examples": bars.add_task(f"{settings.source} examples", total=settings.examples, note=""),
            "steps": bars.add_task("training steps", total=settings.steps, note=""),
        }

        def progress(stage: str, done: int, total: int, loss: float) -> None:
            note = f"dose loss {loss:.3f}" if loss else ""
            bars.update(tasks[stage], completed=done, total=total, note=note)
            # A log file shows no progress bars, so print a line at the end.
            if not bars.console.is_terminal and stage == "steps":
                bars.console.print(f"step {done} of {total}: {note}")

        digest = train_prior(settings, progress)
    print(f"prior {digest[:12]} written to {settings.out}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs that differ only in their seed")],
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of Markdown")] = False,
) -> None:
    """Print mean and standard deviation over the seeds of several runs."""
    from simulations.reports.tables import mean_sd_csv, mean_sd_table, read_summary
    from simulations.studies.study import check_alike

    check_alike(folders)
    summaries = [read_summary(folder / "summary.json") for folder in folders]
    print(mean_sd_csv(summaries) if as_csv else mean_sd_table(summaries))


@app.command()
def phantom(
    out: Annotated[Path | None, typer.Option(help="Folder to write the hospital to, as case files")] = None,
    dicom: Annotated[Path | None, typer.Option(help="Folder to write it to as complete DICOM studies")] = None,
    patients: Annotated[int, typer.Option(min=2, max=10_000)] = 12,
    style: Annotated[str, typer.Option(help="Planning style and anatomy of the hospital")] = "openkbp_like",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write one phantom hospital, as case files with site.yaml (--out) or as DICOM studies (--dicom)."""
    from simulations.phantom.dicom import write_dicom_hospital
    from simulations.phantom.hospitals import find_style, write_hospital

    if (out is None) == (dicom is None):
        raise InputError("expected either --out (case files) or --dicom (DICOM studies)")
    if dicom is not None:
        write_dicom_hospital(dicom, find_style(style), patients, seed)
        print(f"{patients} DICOM studies in {dicom}")
    elif out is not None:
        site = write_hospital(out, find_style(style), patients, seed)
        print(f"{len(site.train)} training and {len(site.validation)} validation patients in {out}")


@app.command("export-bundle")
def export_bundle(
    out: Annotated[Path, typer.Option(help="New folder for the bundle")],
    adapter: Annotated[
        Path | None, typer.Option(help="A pyramid's .safetensors. Default: the bundled adapter.")
    ] = None,
) -> None:
    """Write an adapter's predictor as a MONAI bundle, which gives the same dose as `client predict`."""
    from client.prediction.bundle_files import export_bundle as export
    from shared_model.bundled import DEFAULT_ADAPTER

    for name in export(adapter or DEFAULT_ADAPTER, out):
        print(out / name)


def main() -> int:
    """Entry point of the console script."""
    return run_command(app, "simulate")


if __name__ == "__main__":
    raise SystemExit(main())
