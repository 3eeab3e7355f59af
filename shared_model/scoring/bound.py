"""A scorecard applied to one patient: the values, points and score of doses. Batched and differentiable."""

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
from shared_model.scoring.metric import OF_ISODOSE, OF_PRESCRIPTION
from shared_model.scoring.regions import BODY, Region, prescription_gy, region_cc
from shared_model.scoring.scorecard import Criterion, Scorecard


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


class AppliedCriteria:
    """The c criteria of a scorecard that apply to a patient, in its order: from values (b, c) to points and score."""

    def __init__(self, criteria: Sequence[Criterion]) -> None:
        self.criteria = tuple(criteria)
        self.weight = sum(c.weight for c in self.criteria)
        self.constrained = tuple(n for n, c in enumerate(self.criteria) if c.constraint is not None)

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

    def score_of(self, values_bc: Tensor) -> Tensor:
        """The score of each candidate, (b,), 0 to 100, from its values."""
        return 100.0 * self.points(values_bc).sum(1) / self.weight


class BoundCard(AppliedCriteria):
    """A scorecard for one patient. Doses are (b, z, y, x) in Gy on the patient's grid. Results have its dtype."""

    def __init__(self, bound: Sequence[_BoundCriterion]) -> None:
        super().__init__([one.criterion for one in bound])
        self._bound = tuple(bound)

    def values(self, dose_bzyx: Tensor, soft_gy: float = 0.0) -> Tensor:
        """The metric of each criterion in its unit, (b, c). ``soft_gy``: see shared_model/scoring/partial_volume.py."""
        flat = dose_bzyx.flatten(1)
        return torch.stack([_value(one, flat, soft_gy) for one in self._bound], dim=1)

    def score(self, dose_bzyx: Tensor, soft_gy: float = 0.0) -> Tensor:
        """The score of each candidate, (b,), 0 to 100."""
        return self.score_of(self.values(dose_bzyx, soft_gy))


def bind_card(card: Scorecard, case: Case, cover: Mapping[str, NDArray[np.floating]]) -> BoundCard:
    """``Scorecard.bind``. Raises InputError if the patient has none of the scorecard's structures."""
    bound = [one for c in card.criteria if (one := _bind(c, case, cover)) is not None]
    if not bound:
        raise InputError(f"case {case.case_id}: has none of the structures of scorecard {card.name}")
    return BoundCard(bound)


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
