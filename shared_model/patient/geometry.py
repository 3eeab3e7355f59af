"""Grids in millimetres, and exact separable resampling between axis-aligned grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared_model.core.errors import InputError

Triple = tuple[float, float, float]

# From a micro-CT's voxel to a body in a handful of voxels. Metres or micrometres mistaken for mm lie outside.
SPACING_RANGE_MM = (0.01, 200.0)


@dataclass(frozen=True)
class Grid:
    """A regular, axis-aligned voxel grid in LPS, axes (z, y, x).

    ``shape`` voxels, ``spacing_mm`` between voxel centres, ``origin_mm`` the centre of voxel (0, 0, 0).
    The reader of a tilted or re-oriented study resamples it onto such a grid once.
    """

    shape: tuple[int, int, int]
    spacing_mm: Triple
    origin_mm: Triple = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(type(n) is not int or n < 1 for n in self.shape):
            raise InputError(f"grid shape {self.shape}: expected three positive whole numbers (z, y, x)")
        low, high = SPACING_RANGE_MM
        if len(self.spacing_mm) != 3 or not all(low <= s <= high for s in self.spacing_mm):
            raise InputError(
                f"grid spacing {self.spacing_mm} mm: expected three positive numbers (z, y, x) from {low} to {high}"
            )
        if len(self.origin_mm) != 3 or not all(np.ndim(o) == 0 and np.isfinite(o) for o in self.origin_mm):
            raise InputError(f"grid origin {self.origin_mm} mm: expected three finite numbers (z, y, x)")

    @property
    def voxel_cc(self) -> float:
        """Volume of one voxel in cm3."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def centres_mm(self, axis: int) -> NDArray[np.float64]:
        """Voxel centre positions along one axis, in mm."""
        index = np.arange(self.shape[axis], dtype=np.float64)
        centres: NDArray[np.float64] = self.origin_mm[axis] + index * self.spacing_mm[axis]
        return centres

    def position_mm(self, index_zyx: NDArray[np.floating]) -> NDArray[np.float64]:
        """Position in mm of (fractional) voxel indices, shape (..., 3)."""
        index = np.asarray(index_zyx, dtype=np.float64)
        position: NDArray[np.float64] = np.asarray(self.origin_mm) + index * np.asarray(self.spacing_mm)
        return position


def roi_grid(mask_zyx: NDArray[np.bool_], grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """The grid of ``shape`` voxels that covers the bounding box of ``mask_zyx``, never finer than ``grid``.

    A box smaller than ``shape`` voxels of ``grid`` keeps the native spacing and is centred, so that small anatomy is
    not magnified. Raises InputError on an empty mask.
    """
    where = np.nonzero(mask_zyx)
    if where[0].size == 0:
        raise InputError("region of interest: the body mask is empty")
    spacing, origin = [], []
    for axis in range(3):
        low, high = int(where[axis].min()), int(where[axis].max())
        extent_mm = (high - low + 1) * grid.spacing_mm[axis]
        step = max(grid.spacing_mm[axis], extent_mm / shape[axis])
        centre = grid.origin_mm[axis] + 0.5 * (low + high) * grid.spacing_mm[axis]
        spacing.append(step)
        origin.append(centre - 0.5 * (shape[axis] - 1) * step)
    return Grid(shape, (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]))


def _overlap_matrix(src: Grid, dst: Grid, axis: int) -> NDArray[np.float32]:
    """(dst, src) lengths of overlap of voxel intervals, as a fraction of the dst voxel: area averaging."""
    s, d = src.centres_mm(axis), dst.centres_mm(axis)
    hs, hd = src.spacing_mm[axis] / 2, dst.spacing_mm[axis] / 2
    low = np.maximum(s[None] - hs, d[:, None] - hd)
    high = np.minimum(s[None] + hs, d[:, None] + hd)
    fraction: NDArray[np.float32] = (np.clip(high - low, 0.0, None) / (2 * hd)).astype(np.float32)
    return fraction


def _linear_matrix(src: Grid, dst: Grid, axis: int) -> NDArray[np.float32]:
    """(dst, src) linear interpolation weights at dst centres; rows are zero beyond half a voxel outside src."""
    n = src.shape[axis]
    u = (dst.centres_mm(axis) - src.origin_mm[axis]) / src.spacing_mm[axis]
    inside = (u >= -0.5 - 1e-9) & (u <= n - 0.5 + 1e-9)
    u = np.clip(u, 0, n - 1)
    low = np.minimum(np.floor(u).astype(int), max(n - 2, 0))
    frac = u - low
    weights = np.zeros((len(u), n))
    rows = np.arange(len(u))
    weights[rows, low] += 1 - frac
    weights[rows, np.minimum(low + 1, n - 1)] += frac
    return (weights * inside[:, None]).astype(np.float32)


class Resampler:
    """Moves volumes between two axis-aligned grids: ``average`` by voxel overlap, ``interpolate`` linearly.

    Both are separable linear maps (one small matrix per axis), so they are exact, differentiable and quick.
    Volumes are tensors (..., z, y, x). Space outside the source grid counts as ``fill``.
    """

    def __init__(self, src: Grid, dst: Grid) -> None:
        self.src, self.dst = src, dst
        self._average = [torch.from_numpy(_overlap_matrix(src, dst, a)) for a in range(3)]
        self._linear = [torch.from_numpy(_linear_matrix(src, dst, a)) for a in range(3)]

    @staticmethod
    def _apply(matrices: list[torch.Tensor], volume: torch.Tensor, fill: float) -> torch.Tensor:
        if fill:
            return Resampler._apply(matrices, volume - fill, 0.0) + fill
        az, ay, ax = (m.to(volume.dtype) for m in matrices)
        return torch.einsum("ai,bj,ck,...ijk->...abc", az, ay, ax, volume)

    def average(self, volume_zyx: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """Mean over each destination voxel."""
        return self._apply(self._average, volume_zyx, fill)

    def interpolate(self, volume_zyx: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """Trilinear value at each destination voxel centre."""
        return self._apply(self._linear, volume_zyx, fill)


def masked_average(volume_zyx: torch.Tensor, mask_zyx: torch.Tensor, to: Resampler) -> torch.Tensor:
    """Mean over the part of each destination voxel that lies inside ``mask_zyx``. 0 if no part does."""
    mask = mask_zyx.to(volume_zyx.dtype)
    weight = to.average(mask)
    return torch.where(weight > 1e-4, to.average(volume_zyx * mask) / weight.clamp_min(1e-4), 0.0)


def back_project(
    coarse_zyx: torch.Tensor,
    mask_zyx: torch.Tensor,
    fine: Grid,
    coarse: Grid,
    iterations: int = 6,
    lowest: float | None = 0.0,
) -> torch.Tensor:
    """Upsample ``coarse_zyx`` (masked means on ``coarse``) to ``fine`` so that its masked means stay the same.

    Each iteration adds the interpolated difference between the wanted and the reached means (iterative
    back-projection, Irani and Peleg 1991). The result is zero outside ``mask_zyx`` and never below ``lowest``. Use
    None for differences, which may have either sign.
    """
    down, up = Resampler(fine, coarse), Resampler(coarse, fine)
    mask = mask_zyx.to(coarse_zyx.dtype)
    inside = (down.average(mask) > 1e-4).to(coarse_zyx.dtype)
    norm = up.interpolate(inside).clamp_min(1e-6)

    def spread(volume: torch.Tensor) -> torch.Tensor:
        return up.interpolate(volume * inside) / norm * mask

    fine_volume = spread(coarse_zyx)
    for _ in range(iterations):
        fine_volume = fine_volume + spread(coarse_zyx - masked_average(fine_volume, mask, down))
    return fine_volume if lowest is None else fine_volume.clamp_min(lowest)
