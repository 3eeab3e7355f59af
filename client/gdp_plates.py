"""Beam plate and angle plate voxel by voxel, as the GDP-HMM challenge defines them (Gao et al. 2025).

Lengths are counted in voxels of the grid that is given, so that the same plan gives another plate on another grid: on
the challenge's own grid these are comparable with its files. shared_model/plates.py draws the same in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.case import Volume
from shared_model.geometry import Grid, Triple
from shared_model.plates import SOURCE_DISTANCE_MM

_BAR_VOXELS, _BAR_WIDTH = 50, 4
_BAR_SLICES = (-5, 5)
# Points a voxel along a ray: close enough that no voxel on its way is left out.
_POINTS_PER_VOXEL = 2
_RAYS_AT_ONCE = 256


def _voxels(isocentre_mm: Triple, grid: Grid) -> NDArray[np.float64]:
    return (np.array(isocentre_mm) - np.array(grid.origin_mm)) / np.array(grid.spacing_mm)


def angle_plate(grid: Grid, isocentre_mm: Triple, gantry_deg: Sequence[float]) -> Volume:
    """Lines of 50 voxels, 4 wide, from the isocentre towards each source, in the ten slices about it; (z, y, x)."""
    z, y, x = np.trunc(_voxels(isocentre_mm, grid)).astype(int)
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]]
    bars = np.zeros(grid.shape[1:], dtype=np.float32)
    for gantry in gantry_deg:
        angle = np.deg2rad(gantry - 90.0)
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        bars[(along >= 0) & (along <= _BAR_VOXELS) & (np.abs(across) <= _BAR_WIDTH / 2)] = 1.0
    plate = np.zeros(grid.shape, dtype=np.float32)
    plate[max(z + _BAR_SLICES[0], 0) : max(z + _BAR_SLICES[1], 0)] = bars
    return plate


def beam_plate(target_zyx: NDArray[np.bool_], grid: Grid, isocentre_mm: Triple, gantry_deg: Sequence[float]) -> Volume:
    """Sum over beams of the target's shadow times (source-isocentre / source-voxel distance in voxels) squared.

    The shadow is made of rays from the source through each surface voxel of ``target_zyx``, dilated by 4^3 and eroded
    by 3^3 voxels; (z, y, x). An empty target gives zeros.
    """
    surface = target_zyx & ~ndimage.binary_erosion(target_zyx)
    plate = np.zeros(grid.shape, dtype=np.float32)
    through = np.argwhere(surface).astype(np.float64)
    if not len(through):
        return plate
    isocentre = _voxels(isocentre_mm, grid)
    index = np.indices(grid.shape, dtype=np.float32)
    for gantry in gantry_deg:
        angle = np.deg2rad(gantry - 90.0)
        source = isocentre + SOURCE_DISTANCE_MM * np.array(
            [0.0, np.sin(angle) / grid.spacing_mm[1], np.cos(angle) / grid.spacing_mm[2]]
        )
        shadow = ndimage.binary_erosion(
            ndimage.binary_dilation(_rays(through, source, grid.shape), np.ones((4, 4, 4))), np.ones((3, 3, 3))
        )
        distance = sum((index[a] - np.float32(source[a])) ** 2 for a in range(3))
        plate += shadow * (np.float32(((source - isocentre) ** 2).sum()) / np.maximum(distance, 1.0))
    return plate


def _rays(through: NDArray[np.float64], source: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels on the rays from ``source`` through each point of ``through``, within the grid; (z, y, x)."""
    marked = np.zeros(shape, dtype=bool)
    centre = (np.array(shape) - 1) / 2
    radius = float(np.linalg.norm(centre)) + 1
    for part in np.array_split(through, -(-len(through) // _RAYS_AT_ONCE)):
        way = part - source
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        nearest = way @ (centre - source)
        steps = np.arange(-radius, radius, 1 / _POINTS_PER_VOXEL)
        points = np.rint(source + way[:, None] * (nearest[:, None] + steps)[..., None]).astype(np.int32)
        inside = ((points >= 0) & (points < np.array(shape))).all(axis=-1)
        z, y, x = points[inside].T
        marked[z, y, x] = True
    return marked
