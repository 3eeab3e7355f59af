"""Scores of a cohort's plans by a scorecard: each criterion's value and points, means over patients that have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shared_model.scoring.bound import AppliedCriteria
from shared_model.scoring.scorecard import Scorecard

if TYPE_CHECKING:  # its module loads the networks, which take seconds and score no plan
    from client.adapters.patients import ScoredPatient


@dataclass(frozen=True, kw_only=True)
class PlanScore:
    """One dose of one patient: score 0 to 100, error to the reference in Gy, value and points by criterion id."""

    score: float
    mae_ref5_gy: float
    values: Mapping[str, float]
    points: Mapping[str, float]
    broken: tuple[str, ...]


def plan_score(patient: ScoredPatient, dose_zyx: Tensor) -> PlanScore:
    """Score one dose (z, y, x) in Gy; ``broken``: ids of hard constraints that it breaks."""
    dose = dose_zyx[None].to(torch.float64)
    return score_of_values(patient.card, patient.card.values(dose), float(patient.mae_gy(dose)))


def score_of_values(card: AppliedCriteria, values_1c: Tensor, mae_ref5_gy: float = 0.0) -> PlanScore:
    """Score one dose by the values of its criteria, (1, c). Without ``mae_ref5_gy`` it is the reference itself."""
    ids = [c.id for c in card.criteria]
    beyond = card.violations(values_1c)[0].tolist()
    return PlanScore(
        score=float(card.score_of(values_1c)),
        mae_ref5_gy=mae_ref5_gy,
        values=dict(zip(ids, values_1c[0].tolist(), strict=True)),
        points=dict(zip(ids, card.points(values_1c)[0].tolist(), strict=True)),
        broken=tuple(name for name, by in zip(ids, beyond, strict=True) if by > 0),
    )


def reference_scores(patients: Sequence[ScoredPatient]) -> list[PlanScore]:
    """Score the patients' own plans."""
    return [plan_score(patient, patient.reference) for patient in patients]


def cohort_means(scores: Sequence[PlanScore]) -> dict[str, float]:
    """``score`` and ``mae_ref5_gy``, means over patients."""
    n = len(scores)
    return {"score": sum(s.score for s in scores) / n, "mae_ref5_gy": sum(s.mae_ref5_gy for s in scores) / n}


def criteria_table(card: Scorecard, columns: Mapping[str, Sequence[PlanScore]]) -> list[dict[str, Any]]:
    """Make one entry for each criterion of the scorecard: what it is, how many patients have it, each column's means.

    A criterion that no patient has is listed with 0 patients, so that a name that fits no structure is seen.
    """
    table = []
    for c in card.criteria:
        entry: dict[str, Any] = {"id": c.id, "criterion": c.label, "unit": c.unit, "weight": c.weight}
        entry["patients"] = sum(c.id in s.values for s in next(iter(columns.values())))
        for name, scores in columns.items():
            having = [s for s in scores if c.id in s.values]
            if having:
                means = {key: sum(getattr(s, key)[c.id] for s in having) / len(having) for key in ("values", "points")}
                broken = sum(c.id in s.broken for s in having)
                entry[name] = {"value": means["values"], "points": means["points"], "broken": broken}
        table.append(entry)
    return table
