"""Contours of a voxel mask on an image plane, as a structure set holds them."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.patient.case import Mask
from shared_model.patient.geometry import Grid
from simulations.phantom.planes import Array, Planes, look_up

# The mask is looked up this many times across a voxel and outlined, so that a corner loses less than a hundredth of
# it. Odd in every pixel, so that no outline runs through the middle of one.
_ACROSS_VOXEL = 7


def outlines(mask: Mask, grid: Grid, planes: Planes, frame: int) -> list[Array]:
    """Closed outlines (n, 3) (x, y, z) of ``mask`` where the plane cuts it; those of holes lie inside others."""
    finer = 2 * int(_ACROSS_VOXEL * max(planes.spacing) / min(grid.spacing_mm[1:]) / 2) + 1
    finer = min(max(finer, 3), _ACROSS_VOXEL)
    rough = look_up(mask, grid, planes.points(frame), order=0, outside=0.0)
    window = ndimage.find_objects(ndimage.binary_dilation(rough > 0, iterations=2).astype(np.int8))
    if not window:
        return []
    rows, columns = window[0]
    part = planes.part(frame, rows, columns)
    inside = look_up(mask, grid, part.points(0, finer), order=0, outside=0.0)
    made = []
    for line in contourpy.contour_generator(z=np.pad(inside, 1)).lines(0.5):
        corners = _corners(np.asarray(line)[:-1])
        column, row = ((corners[:, axis] - 0.5) / finer - 0.5 for axis in range(2))
        down = row[:, None] * planes.spacing[0] * planes.column
        right = column[:, None] * planes.spacing[1] * planes.row
        made.append(np.asarray(part.positions[0] + down + right))
    return made


def _corners(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline without points that lie in the middle of straight parts."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    turn = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return line[turn]
