"""Image planes of a phantom patient's scan in any position on the couch, and looking a Case up on them.

A pixel's place follows from the standard's formula (PS3.3 section C.7.6.2.1.1). It is written here separately from our
reader, so that tests can compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.patient.geometry import Grid

Array = NDArray[np.float64]

# Directions of an image's rows and columns (x, y, z LPS) for each position on the couch: up on the image is up in the
# room, and the view is from the foot of the couch.
ORIENTATIONS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
    "HFDR": ((0, 1, 0), (-1, 0, 0)),
    "HFDL": ((0, -1, 0), (1, 0, 0)),
    "FFDR": ((0, -1, 0), (-1, 0, 0)),
    "FFDL": ((0, 1, 0), (1, 0, 0)),
}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """How a phantom patient is scanned and planned.

    ``tilt_deg`` tilts the gantry: slices lean forward and the stack is sheared, as a tilted CT is. ``pixel_mm`` is the
    spacing of rows and of columns (None: the Case's own voxels), ``missing`` the indices of slices left out, ``uneven``
    the factor by which slices of the upper half lie further apart. ``beams``: one RTDOSE a beam instead of the plan's.
    ``dose_mm`` is the dose grid's spacing (z, y, x; None: the Case's grid). ``names`` renames structures.
    """

    position: str = "HFS"
    tilt_deg: float = 0.0
    pixel_mm: tuple[float, float] | None = None
    missing: tuple[int, ...] = ()
    uneven: float = 1.0
    beams: bool = False
    dose_mm: tuple[float, float, float] | None = None
    names: dict[str, str] = field(default_factory=dict)
    plan: bool = True


_BORDER_VOXELS = 2


@dataclass(frozen=True, eq=False)
class Planes:
    """Image planes: ``positions`` (n, 3) of the first pixels, ``row`` and ``column`` unit directions (x, y, z), spacing
    of rows and columns, and their numbers."""

    positions: Array
    row: Array
    column: Array
    spacing: tuple[float, float]
    rows: int
    columns: int

    def points(self, frame: int, finer: int = 1) -> Array:
        """Places of a frame's pixels, or of ``finer``^2 points within each; (rows, columns, 3) (x, y, z)."""
        j = (np.arange(self.rows * finer) + 0.5) / finer - 0.5
        i = (np.arange(self.columns * finer) + 0.5) / finer - 0.5
        down = j[:, None, None] * self.spacing[0] * self.column
        right = i[None, :, None] * self.spacing[1] * self.row
        return np.asarray(self.positions[frame] + down + right)

    def part(self, frame: int, rows: slice, columns: slice) -> Planes:
        """One frame's pixels from ``rows.start`` and ``columns.start`` to their stops."""
        down = rows.start * self.spacing[0] * self.column
        right = columns.start * self.spacing[1] * self.row
        size = (rows.stop - rows.start, columns.stop - columns.start)
        return Planes(self.positions[frame : frame + 1] + down + right, self.row, self.column, self.spacing, *size)


def look_up(volume: NDArray[np.generic], grid: Grid, points_xyz: Array, order: Literal[0, 1], outside: float) -> Array:
    """Values of ``volume`` (z, y, x) at points (..., 3) (x, y, z) mm; ``order`` 0 nearest, 1 linear."""
    index = (points_xyz[..., ::-1] - np.array(grid.origin_mm)) / np.array(grid.spacing_mm)
    at = np.moveaxis(np.round(index, 6), -1, 0)
    values = np.empty(at.shape[1:])
    nearest_or_linear = {"order": order, "mode": "constant", "cval": outside}
    ndimage.map_coordinates(volume.astype(np.float64), at, values, **nearest_or_linear)  # type: ignore[call-overload]
    return values


def scan_planes(grid: Grid, scan: Scan) -> Planes:
    """The CT's planes: the Case's own samples with a border of air, unless the scan says otherwise."""
    row, column = (np.array(direction, dtype=np.float64) for direction in ORIENTATIONS[scan.position])
    low = np.array(grid.origin_mm)[::-1]
    voxel = np.array(grid.spacing_mm)[::-1]
    high = low + voxel * (np.array(grid.shape)[::-1] - 1)
    low[:2], high[:2] = low[:2] - _BORDER_VOXELS * voxel[:2], high[:2] + _BORDER_VOXELS * voxel[:2]
    own = (float(np.abs(column) @ voxel), float(np.abs(row) @ voxel))
    spacing = scan.pixel_mm or own
    normal = np.cross(row, column)
    corner = np.where(row + column + normal > 0, low, high)
    size = [
        round(float(np.abs(direction) @ (high - low)) / step) + 1
        for direction, step in zip((column, row), spacing, strict=True)
    ]
    heights = np.arange(grid.shape[0]) * voxel[2]
    upper = heights > heights[-1] / 2
    heights[upper] = heights[upper][0] + (heights[upper] - heights[upper][0]) * scan.uneven
    heights = heights[heights <= (grid.shape[0] - 1) * voxel[2] + 1e-6]
    kept = [k for k in range(len(heights)) if k not in scan.missing]
    heights = heights[kept]
    if scan.tilt_deg:
        # The last rows of a plane lie above its first: the stack begins that much lower.
        tilt = np.deg2rad(scan.tilt_deg)
        column = column * np.cos(tilt) + normal * np.sin(tilt)
        lower = int(np.ceil(np.sin(tilt) * spacing[0] * size[0] / voxel[2]))
        heights = np.concatenate([np.arange(-lower, 0) * voxel[2], heights])
        size[0] = int(np.ceil(size[0] / np.cos(tilt)))
    return Planes(corner + heights[:, None] * normal, row, column, spacing, size[0], size[1])


def dose_planes(grid: Grid, scan: Scan) -> Planes:
    """The dose grid's planes, in the same directions as the CT's untilted ones."""
    row, column = (np.array(direction, dtype=np.float64) for direction in ORIENTATIONS[scan.position])
    normal = np.cross(row, column)
    voxel = np.array(scan.dose_mm or grid.spacing_mm)[::-1]
    low = np.array(grid.origin_mm)[::-1]
    extent = np.array(grid.spacing_mm)[::-1] * (np.array(grid.shape)[::-1] - 1)
    count = np.ceil(extent / voxel - 1e-9).astype(int) + 1
    high = low + voxel * (count - 1)
    corner = np.where(row + column + normal > 0, low, high)
    n = [int(np.abs(direction) @ count) for direction in (normal, column, row)]
    step = [float(np.abs(direction) @ voxel) for direction in (normal, column, row)]
    positions = corner + np.arange(n[0])[:, None] * step[0] * normal
    return Planes(positions, row, column, (step[1], step[2]), n[1], n[2])


def room_gantry(about_hfs_deg: float, position: str) -> float:
    """The gantry angle that treats a patient in ``position`` from the direction that it has about an HFS patient."""
    row, column = (np.array(direction) for direction in ORIENTATIONS[position])
    angle = np.deg2rad(about_hfs_deg)
    source = np.array([np.sin(angle), -np.cos(angle), 0.0])
    # In the room the source stands at (sin, cos) of the gantry's angle: to the right and up.
    return float(np.rad2deg(np.arctan2(source @ row, -(source @ column)))) % 360.0
