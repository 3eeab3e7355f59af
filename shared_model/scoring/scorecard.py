"""Scorecard: a clinic's preferences as criteria with points. It scores candidate doses.

A criterion is a metric of a structure and a piecewise-linear map from its value to points (at most its weight). The
score of a dose is 100 * sum of points / sum of weights, over the criteria whose structures the patient has. A criterion
may have a hard constraint. How far a value lies beyond it is a violation, which does not affect the points. The module
shared_model/scoring/scorecard_read.py reads files; docs/scorecards.md describes their format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.scoring import partial_volume as dvh
from shared_model.scoring.metric import OF_ISODOSE, OF_PRESCRIPTION, Metric
from shared_model.scoring.regions import BODY, Region, prescription_gy, region_cc

REDUCTIONS = ("min", "max", "mean", "union")


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One line of a scorecard.

    ``reduce``: how several ``regions`` give one value: the min, max or mean of theirs, or that of their union.
    ``higher``: whether more is better. ``points``: pairs (value, points) with rising values; points are linear between
    values and constant outside. ``constraint``: the least value that a dose may have if more is better, else the
    greatest. ``prescription``: the target whose prescription is 100 % of dose. None means the structure's own
    prescription, or the highest if it has none.
    """

    id: str
    regions: tuple[Region, ...]
    metric: Metric
    unit: str
    higher: bool
    weight: float
    points: tuple[tuple[float, float], ...]
    reduce: str = "min"
    goal: float | None = None
    limit: float | None = None
    constraint: float | None = None
    prescription: str | None = None
    source: str = ""

    @property
    def span(self) -> float:
        """The distance from the first to the last value of the map. Violations are measured in it."""
        return self.points[-1][0] - self.points[0][0]

    @property
    def label(self) -> str:
        """Structures and metric, as a name in tables."""
        names = " / ".join(region.label for region in self.regions)
        return f"{names} {self.metric.name}"


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """A named list of criteria with a version. ``prescriptions_gy``: the dose levels it was written for, if any."""

    schema: str
    name: str
    version: str
    institution: str
    criteria: tuple[Criterion, ...]
    prescriptions_gy: Mapping[str, float]
    sha256: str

    def bind(self, case: Case, cover: Mapping[str, NDArray[np.floating]] | None = None) -> BoundCard:
        """Apply the scorecard to one patient. Voxels and volumes are computed once, for any number of candidates.

        ``cover``: share 0..1 of a structure in each voxel, (z, y, x). A structure without it is its mask. Raises
        InputError if the patient has none of the scorecard's structures.
        """
        bound = [one for c in self.criteria if (one := _bind(c, case, cover or {})) is not None]
        if not bound:
            raise InputError(f"case {case.case_id}: has none of the structures of scorecard {self.name}")
        return BoundCard(bound)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Voxels of one region as flat indices into the grid, and the region's volume (cm3) in each."""

    index_n: Tensor
    cc_n: Tensor


@dataclass(frozen=True, kw_only=True)
class _BoundCriterion:
    criterion: Criterion
    parts: tuple[_Part, ...]
    body: _Part | None
    prescription_gy: float


def _part(volume_cc: NDArray[np.float64]) -> _Part:
    flat = volume_cc.ravel()
    index = np.flatnonzero(flat > 0)
    return _Part(index_n=torch.from_numpy(index), cc_n=torch.from_numpy(flat[index]))


def _bind(criterion: Criterion, case: Case, cover: Mapping[str, NDArray[np.floating]]) -> _BoundCriterion | None:
    volumes = [volume for region in criterion.regions if (volume := region_cc(region, case, cover)) is not None]
    unit_gy = prescription_gy(criterion.prescription or criterion.regions[0].structure, case)
    relative = criterion.unit == "%Rx" or criterion.metric.kind in OF_PRESCRIPTION
    if not volumes or (relative and unit_gy is None):
        return None
    if criterion.reduce == "union":
        volumes = [np.maximum.reduce(volumes)]
    body = region_cc(Region(structure=BODY), case, {}) if criterion.metric.kind in OF_ISODOSE else None
    return _BoundCriterion(
        criterion=criterion,
        parts=tuple(_part(volume) for volume in volumes),
        body=None if body is None else _part(body),
        prescription_gy=unit_gy or 0.0,
    )


class BoundCard:
    """A scorecard for one patient. Doses are (b, z, y, x) in Gy on the patient's grid. Results keep the dose's dtype.

    ``criteria``: the c criteria that apply to the patient, in the scorecard's order. Results (b, c) follow this order.
    """

    def __init__(self, bound: Sequence[_BoundCriterion]) -> None:
        self._bound = tuple(bound)
        self.criteria = tuple(one.criterion for one in bound)
        self.weight = sum(c.weight for c in self.criteria)
        self.constrained = tuple(n for n, c in enumerate(self.criteria) if c.constraint is not None)

    def values(self, dose_bzyx: Tensor, soft_gy: float = 0.0) -> Tensor:
        """The metric of each criterion in its unit, (b, c). ``soft_gy``: see shared_model/scoring/partial_volume.py."""
        flat = dose_bzyx.flatten(1)
        return torch.stack([_value(one, flat, soft_gy) for one in self._bound], dim=1)

    def points(self, values_bc: Tensor) -> Tensor:
        """Points of each criterion, (b, c), from its value. The gradient is that of the map's pieces."""
        return torch.stack([_interpolate(c.points, values_bc[:, n]) for n, c in enumerate(self.criteria)], dim=1)

    def violations(self, values_bc: Tensor) -> Tensor:
        """How far each value is beyond its constraint, (b, c), in units of ``span``. 0 if the constraint holds."""
        columns = []
        for n, c in enumerate(self.criteria):
            value = values_bc[:, n]
            if c.constraint is None:
                columns.append(torch.zeros_like(value))
                continue
            beyond = c.constraint - value if c.higher else value - c.constraint
            columns.append(beyond.clamp_min(0.0) / c.span)
        return torch.stack(columns, dim=1)

    def score(self, dose_bzyx: Tensor, soft_gy: float = 0.0) -> Tensor:
        """The score of each candidate, (b,), 0 to 100."""
        return 100.0 * self.points(self.values(dose_bzyx, soft_gy)).sum(1) / self.weight


def _value(bound: _BoundCriterion, dose_bv: Tensor, soft_gy: float) -> Tensor:
    found = [_metric(bound, part, dose_bv, soft_gy) for part in bound.parts]
    if len(found) == 1:
        return found[0]
    together = torch.stack(found, dim=1)
    if bound.criterion.reduce == "mean":
        return together.mean(1)
    return together.amax(1) if bound.criterion.reduce == "max" else together.amin(1)


def _metric(bound: _BoundCriterion, part: _Part, dose_bv: Tensor, soft_gy: float) -> Tensor:
    """The criterion's metric of one region in its unit, (b,)."""
    metric, unit, unit_gy = bound.criterion.metric, bound.criterion.unit, bound.prescription_gy
    dose, cc = dose_bv[:, part.index_n], part.cc_n.to(dose_bv.dtype)
    level_gy = metric.amount * (unit_gy / 100.0 if metric.kind in OF_PRESCRIPTION else 1.0)
    if "volume" in metric.kind:
        volume = dvh.volume_at_dose(dose, cc, level_gy, soft_gy)
        volume = cc.sum() - volume if metric.kind.startswith("cold") else volume
        return volume if unit == "cc" else 100.0 * volume / cc.sum()
    if metric.kind == "homogeneity":
        return dvh.homogeneity(dose, cc)
    if bound.body is not None:
        return _isodose_metric(bound, part, bound.body, dose_bv, level_gy, soft_gy)
    value = {
        "dose_at_percent": lambda: dvh.dose_at_percent(dose, cc, metric.amount),
        "dose_at_cc": lambda: dvh.dose_at_cc(dose, cc, metric.amount),
        "mean": lambda: dvh.mean_dose(dose, cc),
        "max": lambda: dose.amax(-1),
        "min": lambda: dose.amin(-1),
    }[metric.kind]()
    return value if unit == "Gy" else 100.0 * value / unit_gy


def _isodose_metric(
    bound: _BoundCriterion, part: _Part, body: _Part, dose_bv: Tensor, level_gy: float, soft_gy: float
) -> Tensor:
    """Conformity, gradient or spill, (b,): ratios of the volumes of isodoses in the whole body."""
    everywhere, everywhere_cc = dose_bv[:, body.index_n], body.cc_n.to(dose_bv.dtype)

    def isodose_cc(gy: float) -> Tensor:
        return dvh.volume_at_dose(everywhere, everywhere_cc, gy, soft_gy)

    target_cc = part.cc_n.to(dose_bv.dtype)
    if bound.criterion.metric.kind == "gradient":
        full = isodose_cc(bound.prescription_gy)
        return (isodose_cc(0.5 * bound.prescription_gy) / full.clamp_min(1e-6)).clamp_max(1000.0)
    if bound.criterion.metric.kind == "spill":
        return isodose_cc(level_gy) / target_cc.sum()
    inside = dvh.volume_at_dose(dose_bv[:, part.index_n], target_cc, level_gy, soft_gy)
    return dvh.conformity(target_cc.sum(), inside, isodose_cc(level_gy))


def _interpolate(points: Sequence[tuple[float, float]], value_b: Tensor) -> Tensor:
    """Apply a piecewise-linear map that is constant outside its points, (b,) -> (b,)."""
    x, y = (torch.tensor([p[i] for p in points], dtype=value_b.dtype) for i in (0, 1))
    piece = (torch.searchsorted(x, value_b.detach().contiguous()) - 1).clamp(0, len(points) - 2)
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    inside = value_b.clamp(float(x[0]), float(x[-1]))
    return y[piece] + slope[piece] * (inside - x[piece])
