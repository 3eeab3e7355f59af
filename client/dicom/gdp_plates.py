"""Beam plate and angle plate voxel by voxel, as the GDP-HMM challenge defines them (Gao et al. 2025).

Lengths are counted in voxels of the grid that is given, so that the same plan gives another plate on another grid: on
the challenge's own grid these are comparable with its files. shared_model/patient/plates.py draws the same in
millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.patient.case import Volume
from shared_model.patient.geometry import Grid, Triple
from shared_model.patient.plates import SOURCE_DISTANCE_MM

_BAR_VOXELS, _BAR_WIDTH = 50, 4
_BAR_SLICES = (-5, 5)
_RAYS_AT_ONCE = 2000

Array = NDArray[np.float64]


def _voxel(isocentre_mm: Triple, grid: Grid) -> Array:
    """The isocentre's voxel: cut to whole numbers, as there."""
    index = (np.array(isocentre_mm) - np.array(grid.origin_mm)) / np.array(grid.spacing_mm)
    return np.asarray(np.trunc(np.round(index, 6)))


def angle_plate(grid: Grid, isocentre_mm: Triple, gantry_deg: Sequence[float]) -> Volume:
    """Lines of 50 voxels, 4 wide, from the isocentre towards each source, in the ten slices about it; (z, y, x)."""
    z, y, x = _voxel(isocentre_mm, grid).astype(int)
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]]
    bars = np.zeros(grid.shape[1:], dtype=np.float32)
    for gantry in gantry_deg:
        angle = np.deg2rad(gantry - 90.0)
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        bars[(along > -1e-6) & (along < _BAR_VOXELS + 1e-6) & (np.abs(across) < _BAR_WIDTH / 2 + 1e-6)] = 1.0
    plate = np.zeros(grid.shape, dtype=np.float32)
    plate[max(z + _BAR_SLICES[0], 0) : max(z + _BAR_SLICES[1], 0)] = bars
    return plate


def beam_plate(target_zyx: NDArray[np.bool_], grid: Grid, isocentre_mm: Triple, gantry_deg: Sequence[float]) -> Volume:
    """Sum over beams of the target's shadow times (source-isocentre / source-voxel distance in voxels) squared.

    The shadow is made of rays from the source through each surface voxel of ``target_zyx`` to the first or last row,
    dilated by 4^3 and eroded by 3^3 voxels; (z, y, x). An empty target gives zeros.
    """
    plate = np.zeros(grid.shape, dtype=np.float32)
    surface = np.argwhere(target_zyx & ~ndimage.binary_erosion(target_zyx)).astype(np.float64)
    if not len(surface):
        return plate
    isocentre = _voxel(isocentre_mm, grid)
    z, y, x = np.ogrid[: grid.shape[0], : grid.shape[1], : grid.shape[2]]
    for gantry in gantry_deg:
        source = _source(isocentre, gantry, grid)
        shadow = ndimage.binary_dilation(_rays(surface, source, grid.shape), np.ones((4, 4, 4), dtype=bool))
        shadow = ndimage.binary_erosion(shadow, np.ones((3, 3, 3), dtype=bool))
        distance = (z - source[0]) ** 2 + (y - source[1]) ** 2 + (x - source[2]) ** 2
        plate += (shadow * (((source - isocentre) ** 2).sum() / np.maximum(distance, 1.0))).astype(np.float32)
    return plate


def _source(isocentre: Array, gantry_deg: float, grid: Grid) -> Array:
    angle = np.deg2rad(gantry_deg - 90.0)
    way = [0.0, np.sin(angle) / grid.spacing_mm[1], np.cos(angle) / grid.spacing_mm[2]]
    return np.asarray(np.trunc(isocentre + SOURCE_DISTANCE_MM * np.array(way)))


def _rays(surface: Array, source: Array, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels on the rays, within the grid; (z, y, x). A ray has one voxel for each step along its longest axis."""
    marked = np.zeros(shape, dtype=bool)
    last_row = np.where(source[1] > surface[:, 1], 0.0, shape[1] - 1.0)
    # A ray within a row is taken to rise by one row on its way, as there: it leaves the grid sideways.
    rise = surface[:, 1] - source[1]
    share = (last_row - source[1]) / np.where(rise == 0, 1.0, rise)
    ends = np.trunc(source + share[:, None] * (surface - source))
    ends[:, 1] = last_row
    for part in np.array_split(ends, -(-len(ends) // _RAYS_AT_ONCE)):
        way = np.trunc(part - source)
        longest = np.abs(way).argmax(axis=1)
        for axis in np.unique(longest):
            z, y, x = _steps(way[longest == axis], source, int(axis), shape)
            marked[z, y, x] = True
    return marked


def _steps(way: Array, source: Array, axis: int, shape: tuple[int, int, int]) -> NDArray[np.intp]:
    """Voxels (3, n) of rays whose longest way is along ``axis``: one for each of its planes that the ray comes to."""
    length = np.abs(way[:, axis])
    step = (np.arange(shape[axis]) - source[axis])[None] / (way[:, axis] / np.maximum(length, 1.0))[:, None]
    step = np.rint(step)
    points = np.rint(source + step[..., None] * (way / np.maximum(length, 1.0)[:, None])[:, None])
    inside = (step >= 0) & (step <= length[:, None]) & ((points >= 0) & (points < np.array(shape))).all(axis=-1)
    return np.asarray(points[inside].T.astype(np.intp))
