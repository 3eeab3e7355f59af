"""Scorecard: a clinic's preferences as criteria with points. What it says of a dose: shared_model/scoring/bound.py.

A criterion is a metric of a structure and a piecewise-linear map from its value to points (at most its weight). The
score of a dose is 100 * sum of points / sum of weights, over the criteria whose structures the patient has. A criterion
may have a hard constraint. How far a value lies beyond it is a violation, which does not affect the points. The module
shared_model/scoring/scorecard_read.py reads files; docs/scorecards.md describes their format.

Reading a scorecard loads no torch: a hospital's web page does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared_model.scoring.metric import Metric
from shared_model.scoring.regions import Region

if TYPE_CHECKING:
    from shared_model.patient.case import Case
    from shared_model.scoring.bound import BoundCard

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
        from shared_model.scoring.bound import bind_card  # torch

        return bind_card(self, case, cover or {})
