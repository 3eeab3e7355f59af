"""`simulate transfer`: what a prior is worth. The same fine-tuning from each prior, budget and seed, scored alike.

Every trial is a centralised study of `simulate run` on all hospitals' patients, OUT/PRIOR/STEPS/seedN, with pooled
batches of one patient a hospital and its own schedule, scored at ten points on the way. When the command is repeated,
it reads finished trials and continues with the rest. Equal compute: a random start also gets the shortest budget plus
all steps of the pretraining (same batch, same model), so that the comparison counts the prior's cost.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

from shared_model.backbone.prior import prior_card
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from simulations.data.datasets import hospital_count
from simulations.reports.ablation import spread
from simulations.reports.curves import curves_picture
from simulations.reports.results import REPORT
from simulations.reports.scoring import COLUMNS
from simulations.settings.commands import RunSettings, run_settings
from simulations.settings.series import TransferSettings, trial_overrides
from simulations.studies.study import claim_folder, run_studies

POINTS = 10
BATCH = 4
STUDY = "centralised"
SCRATCH = "none"
LABELS = {
    SCRATCH: "random start",
    "video-small": "video prior",
    "video-shuffled": "control: frames shuffled",
    "phantom-small": "phantom prior",
}


@dataclass(frozen=True, kw_only=True)
class TransferTrial:
    """One prior, budget and seed: final metrics (COLUMNS, Gy) and the dose score by step."""

    prior: str
    steps: int
    seed: int
    scores: dict[str, float]
    curve: tuple[tuple[int, float], ...]


def run_transfer(settings: TransferSettings, bars: Progress) -> str:
    """Train what is not there yet; writes transfer.md, .csv and .png after each trial; returns the table."""
    wanted = [(p, n, s) for n in settings.steps for s in settings.seeds for p in settings.priors]
    if settings.equal_compute:
        longer = min(settings.steps) + max(pretraining_steps(p) for p in settings.priors)
        wanted += [(SCRATCH, longer, s) for s in settings.seeds if longer not in settings.steps]
    # Every trial's settings are checked before the first one trains.
    plans = [(*trial, trial_settings(settings, *trial)) for trial in wanted]
    run = plans[0][-1]  # data and batch are those of all
    examples = run.federation.train.batch_size * hospital_count(run.data, run.partition, run.out)
    if examples != BATCH:
        raise InputError(
            f"partition, data.sites, train.batch_size: {examples} examples a step; expected {BATCH}, as in the"
            " pretraining, or the table's equal steps would not cost the same"
        )
    bar = bars.add_task("priors x steps x seeds", total=len(plans), note="")
    trials: list[TransferTrial] = []
    table = ""
    for prior, steps, seed, run in plans:
        bars.update(bar, note=f"{prior}, {steps} steps, seed {seed}")
        if not (run.out / "summary.json").is_file():
            run_studies(run, bars)
        trials.append(read_trial(prior, steps, seed, run))
        table = table_markdown(trials)
        write_text(settings.out / "transfer.md", table, mode=ORDINARY)
        write_text(settings.out / "transfer.csv", table_csv(trials), mode=ORDINARY)
        for finished in (task for task in bars.task_ids if task != bar):
            bars.update(finished, visible=False)
        bars.advance(bar)
    curves_picture(settings.out / "transfer.png", mean_curves(trials), "fine-tuning step", "dose score (Gy)")
    return f"{table}\ntable     {settings.out / 'transfer.md'}\ncurves    {settings.out / 'transfer.png'}"


def pretraining_steps(prior: str) -> int:
    """Steps that a bundled prior took, in batches of BATCH; 0 for a random start."""
    if prior == SCRATCH:
        return 0
    recipe = prior_card(prior)["recipe"]
    return int(recipe["steps"] * recipe["batch_size"] // BATCH)


def trial_settings(settings: TransferSettings, prior: str, steps: int, seed: int) -> RunSettings:
    """The settings of ``simulate run`` of one trial: POINTS rounds at least, of 100 steps at most."""
    rounds = max(POINTS, steps // 100)
    if steps % rounds:
        raise InputError(f"steps={steps}: expected a multiple of {rounds} steps")
    own = [
        f"name=transfer-{prior}",
        "privacy.mode=none",  # the paper's own comparison, on a researcher's machine
        "model.network=transformer",
        f"seed={seed}",
        f"model.prior={prior}",
        f"model.init_seed={seed}",
        f"study=[{STUDY}]",
        f"rounds.count={rounds}",
        f"train.local_steps={steps // rounds}",
        f"rounds.evaluate_every={max(1, rounds // POINTS)}",
        f"out={settings.out / prior / str(steps) / f'seed{seed}'}",
    ]
    return run_settings(["train.batch_size=1", *trial_overrides(settings.out, settings.common), *own])


def read_trial(prior: str, steps: int, seed: int, run: RunSettings) -> TransferTrial:
    """A finished trial; InputError if its folder holds one with other settings."""
    claim_folder(run)
    scores = json.loads((run.out / "summary.json").read_text())["studies"][STUDY]
    history = json.loads((run.out / "studies" / STUDY / REPORT).read_text())["history"]
    curve = tuple(
        (r["round"] * run.federation.train.local_steps, float(r["evaluation"]["metrics"]["dose_score_gy"]))
        for r in history
        if r["evaluation"]
    )
    return TransferTrial(
        prior=prior, steps=steps, seed=seed, scores={c: float(scores[c]) for c in COLUMNS}, curve=curve
    )


def _groups(trials: Sequence[TransferTrial]) -> dict[tuple[int, str], list[TransferTrial]]:
    groups: dict[tuple[int, str], list[TransferTrial]] = {}
    for t in sorted(trials, key=lambda t: t.steps):
        groups.setdefault((t.steps, t.prior), []).append(t)
    return groups


def table_markdown(trials: Sequence[TransferTrial]) -> str:
    """One row a budget and prior: mean ± sd over seeds, and the dose score over that of a random start."""
    lines = [
        "| fine-tuning steps | start | steps with pretraining | seeds | dose score (Gy) | DVH score (Gy) "
        "| MAE ref ≥ 5 Gy (Gy) | dose score / random start |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    groups = _groups(trials)
    for (steps, prior), own in groups.items():
        cells = [spread([t.scores[m] for t in own]) for m in ("dose_score_gy", "dvh_score_gy", "mae_ref5_gy")]
        # By seed, where both are there: the seed also orders the patients.
        scratch = {t.seed: t.scores["dose_score_gy"] for t in groups.get((steps, SCRATCH), [])}
        ratios = [t.scores["dose_score_gy"] / scratch[t.seed] for t in own if t.seed in scratch]
        ratio = spread(ratios) if ratios and prior != SCRATCH else "-"
        total = steps + pretraining_steps(prior)
        lines.append(f"| {steps} | {LABELS[prior]} | {total} | {len(own)} | {' | '.join(cells)} | {ratio} |")
    lines += ["", f"Rows with equal steps with pretraining cost the same: one step is {BATCH} examples of one size."]
    lines.append("Privacy mode none.")
    return "\n".join(lines) + "\n"


def table_csv(trials: Sequence[TransferTrial]) -> str:
    """One line per trial and point of its curve; the last has all metrics."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prior", "steps", "seed", "step", *COLUMNS])
    for t in trials:
        for step, dose_score in t.curve[:-1]:
            writer.writerow([t.prior, t.steps, t.seed, step, f"{dose_score:.4f}", "", "", ""])
        writer.writerow([t.prior, t.steps, t.seed, t.steps, *(f"{t.scores[c]:.4f}" for c in COLUMNS)])
    return text.getvalue()


def mean_curves(trials: Sequence[TransferTrial]) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, mean dose score over seeds), one curve a prior and budget."""
    curves = {}
    for (steps, prior), own in _groups(trials).items():
        points = zip(*(t.curve for t in own), strict=True)
        curves[f"{LABELS[prior]}, {steps} steps"] = [
            (float(at[0][0]), statistics.fmean(score for _, score in at)) for at in points
        ]
    return curves
