"""The region of a scorecard's criterion: which voxels, and how much of each. A structure, or a ring around one.

A structure is named as in TG-263. ``PTV_High``, ``PTV_Mid`` and ``PTV_Low`` are the case's targets by prescription, so
that one scorecard serves other dose levels. ``Body`` is where dose may differ from zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared_model.patient.anatomy import is_known

if TYPE_CHECKING:  # its module loads torch, which reading a scorecard does not need
    from shared_model.patient.case import Case

BODY = "Body"
# TG-263's relative target names -> place among the case's targets, highest first.
RELATIVE_TARGETS = ("PTV_High", "PTV_Mid", "PTV_Low")
_TARGET = re.compile(r"(PTV|CTV|GTV|ITV)(_.+)?")

# Volume of a region in each voxel of the grid, cm3.
VolumeCc = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A structure, or with ``to_mm`` the ring around it: the part of the body ``from_mm`` to ``to_mm`` outside it."""

    structure: str
    from_mm: float = 0.0
    to_mm: float | None = None

    @property
    def label(self) -> str:
        """The region's name in tables: ``PTV_High`` or ``ring PTV_High 5-20 mm``."""
        return self.structure if self.to_mm is None else f"ring {self.structure} {self.from_mm:g}-{self.to_mm:g} mm"


@lru_cache(maxsize=1)
def _tg263() -> Callable[[str], bool]:
    import tg263  # compiles 700 patterns, so it is imported only when a scorecard is read

    allowed: Callable[[str], bool] = tg263.is_structure_name_allowed
    return allowed


@lru_cache(maxsize=1024)
def is_structure_name(name: str) -> bool:
    """Whether TG-263 or the model (``PTV_7000``) knows a structure of this name."""
    return name == BODY or is_known(name) or bool(_tg263()(name))


def is_target_name(name: str) -> bool:
    """Whether the name is that of a target volume."""
    return _TARGET.fullmatch(name) is not None


def own_name(name: str, case: Case) -> str | None:
    """The case's own name for a structure. None if the case lacks the structure or its mask is empty."""
    if name in RELATIVE_TARGETS:
        targets = case.targets
        # Any case with a target has High. Low needs two targets, Mid needs three.
        places = {"PTV_High": 0, "PTV_Low": len(targets) - 1, "PTV_Mid": 1}
        needed = {"PTV_High": 1, "PTV_Low": 2, "PTV_Mid": 3}[name]
        return targets[places[name]] if len(targets) >= needed else None
    if name == BODY:
        return BODY
    mask = case.structures.get(name)
    return name if mask is not None and mask.any() else None


def prescription_gy(name: str | None, case: Case) -> float | None:
    """The prescription (Gy) of a target of the case. For None or a structure without one, that of the highest target.

    None if the case has no target.
    """
    if not case.targets:
        return None
    found = own_name(name, case) if name else None
    return case.prescriptions_gy.get(found or "", case.prescriptions_gy[case.targets[0]])


def region_cc(region: Region, case: Case, cover: Mapping[str, NDArray[np.floating]]) -> VolumeCc | None:
    """Volume of the region in each voxel, (z, y, x) cm3. None if the case lacks the region.

    ``cover``: share 0..1 of a structure in each voxel, (z, y, x), for structures that are known better than by a mask.
    """
    name = own_name(region.structure, case)
    if name is None:
        return None
    if region.to_mm is not None:
        return _ring(case, name, region.from_mm, region.to_mm)
    share = cover.get(name)
    if share is None:
        share = (case.body if name == BODY else case.structures[name]).astype(np.float64)
    volume: VolumeCc = np.clip(share, 0.0, 1.0).astype(np.float64) * case.grid.voxel_cc
    return volume if volume.any() else None


def _ring(case: Case, name: str, from_mm: float, to_mm: float) -> VolumeCc | None:
    """Voxels of the body whose centre is more than ``from_mm`` and at most ``to_mm`` from the nearest in ``name``."""
    from scipy import ndimage  # only here: reading a scorecard stays light

    distance_mm = ndimage.distance_transform_edt(~case.structures[name], sampling=case.grid.spacing_mm)
    shell = case.body & (distance_mm > from_mm) & (distance_mm <= to_mm)
    return shell.astype(np.float64) * case.grid.voxel_cc if shell.any() else None
