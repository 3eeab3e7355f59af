"""The ablation as a table: mean and standard deviation over seeds beside the paper's values, ready for the docs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simulations.reports.scoring import COLUMNS


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


@dataclass(frozen=True, kw_only=True)
class AblationTrial:
    """One variant trained with one seed: bytes of its vector, training seconds, and scores by sampler steps."""

    variant: str
    seed: int
    vector_bytes: int
    wall_s: float
    scores: Mapping[int, Mapping[str, float]]

    @classmethod
    def read(cls, variant: str, seed: int, done: Mapping[str, Any]) -> AblationTrial:
        """From the JSON of a finished trial."""
        scores = {int(steps): of for steps, of in done["scores"].items()}
        return cls(variant=variant, seed=seed, vector_bytes=done["vector_bytes"], wall_s=done["wall_s"], scores=scores)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, or the one value."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _mean(trials: Sequence[AblationTrial], variant: str, steps: int, metric: str) -> float:
    return statistics.fmean(t.scores[steps][metric] for t in trials if t.variant == variant)


def table_markdown(variants: Mapping[str, AblationRow], full: str, trials: Sequence[AblationTrial]) -> str:
    """Markdown: one row a variant; MAE, dose and DVH score at the last number of steps, dose score at the others."""
    steps = list(trials[0].scores)
    last = steps[-1]
    heads = [f"MAE ref ≥ 5 Gy, {last} steps", f"dose score, {last} steps", f"DVH score, {last} steps"]
    heads += [f"dose score, {s} steps" if s > 1 else "dose score, 1 step" for s in steps[:-1]]
    lines = [
        f"| variant | seeds | {' | '.join(heads)} | MB on wire | paper MAE | paper score |",
        "|---|---:|" + "---:|" * (len(heads) + 3),
    ]
    for name, row in variants.items():
        own = [t for t in trials if t.variant == name]
        if not own:
            continue
        cells = [spread([t.scores[last][m] for t in own]) for m in ("mae_ref5_gy", "dose_score_gy", "dvh_score_gy")]
        cells += [spread([t.scores[s]["dose_score_gy"] for t in own]) for s in steps[:-1]]
        paper = ["-" if v is None else f"{v:.{d}f}" for v, d in ((row.paper_mae_gy, 2), (row.paper_score, 1))]
        wire = f"{own[0].vector_bytes / 1e6:.2f}"
        lines.append(f"| {row.label} | {len(own)} | {' | '.join([*cells, wire, *paper])} |")
    notes = order_notes(variants, full, trials)
    lines += ["", "All in Gy, mean ± standard deviation over seeds; the paper's MAE is on other data and 10 steps."]
    lines += ["Privacy mode none.", ""]
    return "\n".join(lines + notes) + "\n"


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
