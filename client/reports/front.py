"""The trade between target coverage and organ doses over one patient's doses, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from client.reports.scorecard import DPI
from shared_model.core.errors import InputError
from shared_model.patient.case import Case

# Okabe and Ito (2008), a marker of its own each.
_MARKS: Mapping[str, tuple[str, str]] = {
    "reference": ("#000000", "X"),
    "shared": ("#0072B2", "o"),
    "aligned": ("#009E73", "s"),
    "steered": ("#D55E00", "D"),
    "best": ("#CC79A7", "^"),
}


@dataclass(frozen=True, kw_only=True)
class Trade:
    """One dose: D95 of the highest target in % of its prescription, and the mean of its organs' mean doses in Gy."""

    coverage: float
    organs_gy: float


def trades(case: Case, doses_kzyx: Tensor) -> list[Trade]:
    """Of each dose in Gy. InputError for a case without a target or without organs."""
    organs = [name for name, mask in case.structures.items() if name not in case.targets and mask.any()]
    if not case.targets or not organs:
        raise InputError(f"case {case.case_id}: no target or no organ, so there is no trade to show")
    target = case.targets[0]
    inside = doses_kzyx[:, torch.from_numpy(case.structures[target])].double()
    coverage = 100.0 * torch.quantile(inside, 0.05, dim=1) / case.prescriptions_gy[target]
    means = torch.stack([doses_kzyx[:, torch.from_numpy(case.structures[name])].double().mean(1) for name in organs])
    return [Trade(coverage=c, organs_gy=o) for c, o in zip(coverage.tolist(), means.mean(0).tolist(), strict=True)]


def front(found: Sequence[Trade]) -> list[Trade]:
    """Those that no other beats in both, by rising organ dose."""
    kept: list[Trade] = []
    for one in sorted(found, key=lambda trade: (trade.organs_gy, -trade.coverage)):
        if not kept or one.coverage > kept[-1].coverage:
            kept.append(one)
    return kept


def front_png(candidates: Sequence[Trade], scores: Sequence[float], marked: Mapping[str, Trade]) -> bytes:
    """Candidates coloured by the scorecard's score, their front, and the named doses, as PNG bytes."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    points = axes.scatter(
        [one.organs_gy for one in candidates],
        [one.coverage for one in candidates],
        c=list(scores),
        cmap="viridis",
        s=26,
    )
    figure.colorbar(points, ax=axes, label="score of the card")
    line = front([*candidates, *(trade for name, trade in marked.items() if name != "reference")])
    axes.plot([one.organs_gy for one in line], [one.coverage for one in line], color="#8C8C8C", linewidth=1.0)
    for name, trade in marked.items():
        colour, shape = _MARKS[name]
        axes.scatter(trade.organs_gy, trade.coverage, c=colour, marker=shape, s=90, label=name, zorder=3)
    axes.set_xlabel("mean of the organs' mean doses (Gy): less is better")
    axes.set_ylabel("D95 of the highest target (% of prescription)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()
