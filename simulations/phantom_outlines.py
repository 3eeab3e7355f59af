"""Contours of a voxel mask on an image plane, as a structure set holds them."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import NDArray

from shared_model.case import Mask
from shared_model.geometry import Grid
from simulations.phantom_planes import Planes, look_up

# The mask is looked up this many times in a pixel, each way, and outlined: a corner loses 1/72 of a pixel.
_FINER = 6


def outlines(mask: Mask, grid: Grid, planes: Planes, frame: int) -> list[NDArray[np.float64]]:
    """Closed outlines (n, 3) (x, y, z) of ``mask`` where the plane cuts it; those of holes lie inside others."""
    inside = look_up(mask, grid, planes.points(frame, _FINER), order=0, outside=0.0)
    if not inside.any():
        return []
    padded = np.pad(inside, 1)
    found = contourpy.contour_generator(z=padded).lines(0.5)
    made = []
    for line in found:
        corners = _corners(np.asarray(line)[:-1])
        column, row = ((corners[:, axis] - 1 + 0.5) / _FINER - 0.5 for axis in range(2))
        place = planes.positions[frame] + (
            row[:, None] * planes.spacing[0] * planes.column + column[:, None] * planes.spacing[1] * planes.row
        )
        made.append(np.asarray(place))
    return made


def _corners(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the points in the middle of straight runs."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    turn = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return line[turn]
