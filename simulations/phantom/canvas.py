"""Smooth shapes in millimetres, drawn finer than the grid and thresholded at half a voxel, so that thin organs stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.patient.case import Mask
from shared_model.patient.geometry import Grid

Field = NDArray[np.float32]

_SUPERSAMPLING = 2


class Canvas:
    """Supersampled coordinates of a grid, and shapes on them as fields: below 1 inside, above 1 outside."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        axes = []
        for axis in range(3):
            fine = grid.spacing_mm[axis] / _SUPERSAMPLING
            start = grid.origin_mm[axis] - 0.5 * grid.spacing_mm[axis] + 0.5 * fine
            axes.append((start + np.arange(grid.shape[axis] * _SUPERSAMPLING) * fine).astype(np.float32))
        self.z, self.y, self.x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]

    def ellipsoid(self, centre: Any, radii: Any) -> Field:
        """Squared radius of an ellipsoid (z, y, x)."""
        dz, dy, dx = (((c - o) / r) ** 2 for c, o, r in zip((self.z, self.y, self.x), centre, radii, strict=True))
        return np.asarray(dz + dy + dx, dtype=np.float32)

    def tube(self, y_mm: Any, x_mm: Any, radius_y: Any, radius_x: Any) -> Field:
        """Squared radius of a tube along z; its centre and radii may depend on z."""
        field_ = ((self.y - y_mm) / radius_y) ** 2 + ((self.x - x_mm) / radius_x) ** 2
        return np.asarray(np.broadcast_to(field_, (self.z.shape[0], *field_.shape[1:])), dtype=np.float32)

    def between(self, low: float, high: float) -> NDArray[np.bool_]:
        """Heights from ``low`` to ``high``, broadcastable."""
        return (self.z >= low) & (self.z <= high)

    def coverage(self, fine: NDArray[Any]) -> Field:
        """Mean of a supersampled field in each voxel."""
        z, y, x = self.grid.shape
        s = _SUPERSAMPLING
        return np.asarray(fine.reshape(z, s, y, s, x, s).mean(axis=(1, 3, 5), dtype=np.float32))

    def mask(self, fine: NDArray[np.bool_]) -> Mask:
        """Voxels at least half covered; where none is, the one covered most (never empty if anything was drawn)."""
        covered = self.coverage(fine)
        mask = covered >= 0.5
        if not mask.any() and covered.max() > 0:
            mask = covered == covered.max()
        return np.asarray(mask, dtype=bool)
