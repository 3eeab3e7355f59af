"""DVH points that planners trade: both ends of each target, mean and hot end of each organ, the surroundings' mean.

The hot and the cold end are the means of the twentieth of a structure's voxels with the highest and the lowest dose:
smooth relatives of D2% and D95%, whose gradient reaches more than two voxels. Doses are in units of the prescription.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared_model.patient.anatomy import OAR_NAMES

TARGETS: tuple[str, ...] = ("high", "middle", "low")
# The body outside of all targets, to this distance from them.
SURROUNDINGS, SURROUNDINGS_MM = "surroundings", 40.0
# A structure of fewer voxels has no points; each end is this share of the others' voxels.
LEAST_VOXELS, END_SHARE = 8, 0.05
MEAN, HOT, COLD = "mean", "hot", "cold"
# A volume of its own for each kind of point: organs and targets overlap, and both with what is around.
VOLUMES: tuple[str, ...] = ("organ mean", "organ hot", "target cold", "target hot", "surroundings mean")
MAPS = 2 * len(VOLUMES)


@dataclass(frozen=True)
class DvhPoint:
    """``structure``: a target by rank, an organ's input (patient/anatomy.py) or SURROUNDINGS. ``kind``: of its end."""

    structure: str
    kind: str

    def of(self, dose_nv: Tensor) -> Tensor:
        """Its value for doses (n, voxels of the structure), (n,)."""
        if self.kind == MEAN:
            return dose_nv.mean(-1)
        count = max(1, round(END_SHARE * dose_nv.shape[-1]))
        ends: Tensor = dose_nv.topk(count, dim=-1, largest=self.kind == HOT).values
        return ends.mean(-1)

    @property
    def volume(self) -> str:
        """The one of VOLUMES that its changes are painted into."""
        of = "target" if self.structure in TARGETS else "organ"
        return f"{self.structure if self.structure == SURROUNDINGS else of} {self.kind}"


POINTS: tuple[DvhPoint, ...] = (
    *(DvhPoint(name, kind) for name in TARGETS for kind in (COLD, HOT)),
    *(DvhPoint(name, kind) for name in OAR_NAMES for kind in (MEAN, HOT)),
    DvhPoint(SURROUNDINGS, MEAN),
)


class PatientPoints:
    """The points that a patient has. ``voxels``: structure -> flat indices into a grid of ``shape`` (z, y, x)."""

    def __init__(self, voxels: Mapping[str, Tensor], shape: Sequence[int]) -> None:
        self._voxels = {name: index for name, index in voxels.items() if len(index) >= LEAST_VOXELS}
        self.points = tuple(point for point in POINTS if point.structure in self._voxels)
        self.places = tuple(POINTS.index(point) for point in self.points)
        self.shape = tuple(shape)
        count = 1
        for side in self.shape:
            count *= side
        self._volumes = [[n for n, p in enumerate(self.points) if p.volume == volume] for volume in VOLUMES]
        self._where = []
        for rows in self._volumes:
            where = torch.zeros(len(rows), count)
            for row, n in enumerate(rows):
                where[row, self._voxels[self.points[n].structure]] = 1.0
            self._where.append(where)

    def values(self, dose_nzyx: Tensor) -> Tensor:
        """The points of doses (n, z, y, x), (n, p)."""
        flat = dose_nzyx.flatten(1)
        return torch.stack([point.of(flat[:, self._voxels[point.structure]]) for point in self.points], dim=1)

    def painted(self, change_np: Tensor, given_np: Tensor) -> Tensor:
        """(n, MAPS, z, y, x): each change in its structure's voxels, and where one is given at all.

        ``change_np``: wanted changes, ``given_np``: 1 where a point's change is given. Where structures of one volume
        overlap, changes are averaged.
        """
        changes, given = [], []
        for rows, where in zip(self._volumes, self._where, strict=True):
            here = given_np[:, rows] @ where
            changes.append((change_np[:, rows] * given_np[:, rows]) @ where / here.clamp_min(1.0))
            given.append(here.clamp_max(1.0))
        maps: Tensor = torch.stack([*changes, *given], dim=1).unflatten(2, self.shape)
        return maps

    def doses(self, dose_zyx: Tensor) -> list[Tensor]:
        """The doses of each structure's voxels."""
        flat = dose_zyx.flatten()
        return [flat[index] for index in self._voxels.values()]
