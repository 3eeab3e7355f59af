"""The ablation as a table: mean and standard deviation over seeds beside the paper's values, ready for the docs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy.stats import wilcoxon

from simulations.reports.scoring import COLUMNS

FEWEST_SEEDS = 3


class AblationRow(Protocol):
    """The values of a variant that the table needs."""

    @property
    def label(self) -> str:
        """What it is."""

    @property
    def paper_mae_gy(self) -> float | None:
        """The paper's validation MAE."""

    @property
    def paper_score(self) -> float | None:
        """The paper's scorecard points."""

    @property
    def reference(self) -> str:
        """The row that it is compared with, if not the list's."""


@dataclass(frozen=True, kw_only=True)
class AblationTrial:
    """One variant trained with one seed: bytes of its vector, training seconds, scores by sampler steps, the dose score
    of each patient at the last number of steps ("hospital id"), and each hospital's number of training patients."""

    variant: str
    seed: int
    vector_bytes: int
    wall_s: float
    scores: Mapping[int, Mapping[str, float]]
    patients: Mapping[str, float] = field(default_factory=dict)
    training_patients: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, variant: str, seed: int, done: Mapping[str, Any]) -> AblationTrial:
        """From the JSON of a finished trial."""
        scores = {int(steps): of for steps, of in done["scores"].items()}
        return cls(
            variant=variant,
            seed=seed,
            vector_bytes=done["vector_bytes"],
            wall_s=done["wall_s"],
            scores=scores,
            patients=done.get("patients", {}),
            training_patients=done.get("training_patients", {}),
        )


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, or the one value."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _mean(trials: Sequence[AblationTrial], variant: str, steps: int, metric: str) -> float:
    return statistics.fmean(t.scores[steps][metric] for t in trials if t.variant == variant)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean difference of patients' dose scores (Gy), its 95% interval, and the p-value of a paired test."""

    mean_gy: float
    low_gy: float
    high_gy: float
    p: float

    def cell(self) -> str:
        """For a table."""
        p = "p < 0.001" if self.p < 0.001 else f"p {self.p:.3f}"
        return f"{self.mean_gy:+.2f} ({self.low_gy:+.2f} to {self.high_gy:+.2f}), {p}"


def paired_difference(trials: Sequence[AblationTrial], variant: str, reference: str) -> Difference | None:
    """What a variant's patients differ by from the same patients of the reference, of the same seed.

    A patient's difference is the mean over the seeds. The interval is a bootstrap over patients (10,000 draws, seed 0),
    the test Wilcoxon's signed ranks, two-sided. None where they have fewer than two patients in common.
    """
    differences: dict[str, list[float]] = {}
    for one in trials:
        others = [t for t in trials if (t.variant, t.seed) == (reference, one.seed)]
        if one.variant == variant and others:
            own, other = _by_patient(one.patients, others[0].patients)
            for patient in own.keys() & other.keys():
                differences.setdefault(patient, []).append(own[patient] - other[patient])
    if len(differences) < 2:
        return None
    means = np.array([statistics.fmean(differences[patient]) for patient in sorted(differences)])
    drawn = means[np.random.default_rng(0).integers(len(means), size=(10_000, len(means)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    p = float(wilcoxon(means).pvalue) if np.any(means != 0.0) else 1.0
    return Difference(mean_gy=float(means.mean()), low_gy=float(low), high_gy=float(high), p=p)


def _by_patient(*of_trials: Mapping[str, float]) -> list[Mapping[str, float]]:
    """Scores by patient alone, so that partitions can be compared, where ids tell patients of all hospitals apart.

    Phantom hospitals count their patients from one each: there hospital and id stay the name.
    """
    bare = [{key.split()[-1]: score for key, score in scores.items()} for scores in of_trials]
    unique = all(len(short) == len(scores) for short, scores in zip(bare, of_trials, strict=True))
    return list(bare) if unique else list(of_trials)


def table_markdown(variants: Mapping[str, AblationRow], reference: str, trials: Sequence[AblationTrial]) -> str:
    """Markdown: one row a variant; MAE, dose and DVH score at the last number of steps, dose score at the others, the
    paired difference to the reference, and the paper's values where the list has some."""
    steps = list(trials[0].scores)
    last = steps[-1]
    of_paper = any(row.paper_mae_gy is not None for row in variants.values())
    said = {s: "1 step" if s == 1 else f"{s} steps" for s in steps}
    heads = [f"{what}, {said[last]}" for what in ("MAE ref ≥ 5 Gy", "dose score", "DVH score")]
    heads += [f"dose score, {said[s]}" for s in steps[:-1]]
    heads += [
        "MB on wire",
        *(["paper MAE", "paper score"] if of_paper else ["dose score to the reference (95%, paired test)"]),
    ]
    lines = [f"| variant | seeds | {' | '.join(heads)} |", "|---|---:|" + "---:|" * len(heads)]
    for name, row in variants.items():
        own = [t for t in trials if t.variant == name]
        if not own:
            continue
        cells = [spread([t.scores[last][m] for t in own]) for m in ("mae_ref5_gy", "dose_score_gy", "dvh_score_gy")]
        cells += [spread([t.scores[s]["dose_score_gy"] for t in own]) for s in steps[:-1]]
        cells.append(f"{own[0].vector_bytes / 1e6:.2f}")
        if of_paper:
            cells += ["-" if v is None else f"{v:.{d}f}" for v, d in ((row.paper_mae_gy, 2), (row.paper_score, 1))]
        else:
            against = row.reference or reference
            found = None if name == against else paired_difference(trials, name, against)
            beside = f" to {variants[row.reference].label}" if row.reference else ""
            cells.append("-" if found is None else found.cell() + beside)
        lines.append(f"| {row.label} | {len(own)} | {' | '.join(cells)} |")
    lines += ["", "All in Gy, mean ± standard deviation over seeds. Privacy mode none."]
    if not of_paper:
        lines += [
            f"Reference: {variants[reference].label}, where no other is named. Intervals by bootstrap over patients;"
            " p by Wilcoxon's signed ranks, for one comparison alone."
        ]
        if len({t.seed for t in trials}) < FEWEST_SEEDS:
            lines.append(
                f"Fewer than {FEWEST_SEEDS} seeds: the differences between trainings are not in the intervals."
            )
        return "\n".join([*lines, ""])
    notes = order_notes(variants, reference, trials)
    return "\n".join([*lines, "The paper's MAE is on other data and 10 steps.", "", *notes]) + "\n"


def order_notes(variants: Mapping[str, AblationRow], full: str, trials: Sequence[AblationTrial]) -> list[str]:
    """Say where a variant stands on the other side of the full model than in the paper (MAE, last number of steps)."""
    there = {t.variant for t in trials}
    reference = variants[full].paper_mae_gy
    if full not in there or reference is None:
        return []
    last = list(trials[0].scores)[-1]
    ours = _mean(trials, full, last, "mae_ref5_gy")
    notes = []
    for name, row in variants.items():
        if name == full or name not in there or row.paper_mae_gy is None:
            continue
        paper, here = row.paper_mae_gy - reference, _mean(trials, name, last, "mae_ref5_gy") - ours
        if paper * here < 0:
            notes.append(f"- {row.label}: {paper:+.2f} Gy against the full model in the paper, {here:+.2f} Gy here.")
    return (
        ["Order differs from the paper's:", "", *notes]
        if notes
        else ["The order against the full model is the paper's."]
    )


def table_csv(trials: Sequence[AblationTrial]) -> str:
    """One line per variant, seed and number of sampler steps."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "steps", *COLUMNS, "vector_bytes", "wall_s"])
    for t in trials:
        for steps, of in t.scores.items():
            numbers = [f"{of[column]:.4f}" for column in COLUMNS]
            writer.writerow([t.variant, t.seed, steps, *numbers, t.vector_bytes, t.wall_s])
    return text.getvalue()
