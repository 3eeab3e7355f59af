"""Where the samples of a stack of image planes lie, and how they come onto an axis-aligned grid, once.

Planes in any orientation of the patient (prone, feet first, decubitus) lie along the axes of LPS: each axis is then
resampled by one small matrix, exactly where grid and planes agree. A tilted gantry or a tilted dose grid is sampled
voxel by voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.planes.plane import ImagePlane
from shared_model.core.errors import InputError
from shared_model.patient.geometry import Grid

Array = NDArray[np.float64]
Volume = NDArray[np.float32]

# A direction that is off an axis by less than this counts as along it: 0.05 mm over half a metre.
_AXIS_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Lattice:
    """Samples (frame, row, column): ``origins_mm`` (frames, 3) of each frame's first sample, (z, y, x) LPS, in order
    along ``normal``; ``down`` and ``right`` the steps to the next row and column, (z, y, x) mm."""

    origins_mm: Array
    down: Array
    right: Array
    rows: int
    columns: int

    @classmethod
    def of_planes(cls, first: ImagePlane, origins_zyx: Array) -> Lattice:
        """Frames like ``first``, at ``origins_zyx``."""
        return cls(
            origins_mm=origins_zyx,
            down=np.array(first.column_direction[::-1]) * first.spacing[0],
            right=np.array(first.row_direction[::-1]) * first.spacing[1],
            rows=first.rows,
            columns=first.columns,
        )

    @property
    def normal(self) -> Array:
        """Unit normal of the planes, (z, y, x): rows x columns of the standard, in our order of axes."""
        normal = np.cross(self.right[::-1], self.down[::-1])[::-1]
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def heights_mm(self) -> Array:
        """Distance of each frame from the first along the normal."""
        return np.asarray((self.origins_mm - self.origins_mm[0]) @ self.normal)

    def axes(self) -> tuple[int, int, int] | None:
        """Patient axis (0 z, 1 y, 2 x) of frames, rows and columns; None where planes are tilted or sheared."""
        shifts = self.origins_mm - self.origins_mm[0]
        found = []
        for steps in (shifts, self.down[None], self.right[None]):
            along = int(np.abs(steps).max(axis=0).argmax()) if len(steps) > 1 or steps.any() else -1
            off = np.delete(steps, along, axis=1) if along >= 0 else steps
            if np.abs(off).max() > _AXIS_TOLERANCE * max(float(np.abs(steps).max()), 1.0):
                return None
            found.append(along)
        if found[0] == -1:  # a single frame lies along the axis that is left
            found[0] = 3 - found[1] - found[2]
        return (found[0], found[1], found[2]) if sorted(found) == [0, 1, 2] else None

    def nodes_mm(self) -> tuple[Array, Array, Array]:
        """Positions along its own patient axis of the frames, rows and columns of a lattice that lies along axes."""
        axes = self.axes()
        assert axes is not None
        first = self.origins_mm[0]
        return (
            self.origins_mm[:, axes[0]],
            first[axes[1]] + np.arange(self.rows) * self.down[axes[1]],
            first[axes[2]] + np.arange(self.columns) * self.right[axes[2]],
        )

    def corners_mm(self) -> Array:
        """Lowest and highest position of a sample, (2, 3) (z, y, x)."""
        ends = np.concatenate([self.origins_mm + r + c for r in self._ends(0) for c in self._ends(1)])
        return np.stack([ends.min(axis=0), ends.max(axis=0)])

    def _ends(self, which: int) -> tuple[Array, Array]:
        step, count = ((self.down, self.rows), (self.right, self.columns))[which]
        return np.zeros(3), step * (count - 1)

    def index(self, points_mm: Array) -> tuple[Array, Array, Array]:
        """Height along the normal (mm), row and column (fractional) of points (n, 3) (z, y, x)."""
        height = (points_mm - self.origins_mm[0]) @ self.normal
        heights = self.heights_mm
        if len(heights) > 1:
            # Beyond the ends the stack goes on as it was, so that a tilted one stays sheared.
            inside = np.clip(height, heights[0], heights[-1])
            origin = np.stack([np.interp(inside, heights, self.origins_mm[:, a]) for a in range(3)], axis=1)
        else:
            origin = np.broadcast_to(self.origins_mm[0], points_mm.shape)
        offset = points_mm - origin
        return height, offset @ self.down / (self.down @ self.down), offset @ self.right / (self.right @ self.right)


def edges_mm(centres: Array, lone_mm: float) -> Array:
    """Borders between neighbouring samples (n + 1), half way; a lone sample is ``lone_mm`` thick."""
    if len(centres) == 1:
        return np.array([centres[0] - lone_mm / 2, centres[0] + lone_mm / 2])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def average_matrix(nodes: Array, centres: Array, spacing_mm: float) -> Volume:
    """Return the matrix (centres, nodes) of the mean over each voxel of samples at ascending ``nodes``; 0 outside."""
    borders = edges_mm(nodes, spacing_mm)
    low = np.maximum(borders[None, :-1], centres[:, None] - spacing_mm / 2)
    high = np.minimum(borders[None, 1:], centres[:, None] + spacing_mm / 2)
    share = np.clip(high - low, 0.0, None)
    total = share.sum(axis=1, keepdims=True)
    mean: Volume = np.zeros(share.shape, dtype=np.float32)
    np.divide(share, total, out=mean, where=total > 1e-6 * spacing_mm, casting="same_kind")
    return mean


def linear_matrix(nodes: Array, centres: Array) -> Volume:
    """(centres, nodes) matrix: linear interpolation between ascending ``nodes``; zero rows half a step beyond them."""
    if len(nodes) == 1:
        return np.ones((len(centres), 1), dtype=np.float32)
    slack = 1e-3
    first, last = nodes[0] - (nodes[1] - nodes[0]) / 2, nodes[-1] + (nodes[-1] - nodes[-2]) / 2
    low = np.clip(np.searchsorted(nodes, centres, side="right") - 1, 0, len(nodes) - 2)
    share = np.clip((centres - nodes[low]) / (nodes[low + 1] - nodes[low]), 0.0, 1.0)
    share[np.abs(share) < 1e-6], share[np.abs(share - 1) < 1e-6] = 0.0, 1.0  # text holds positions to a few nanometres
    matrix = np.zeros((len(centres), len(nodes)))
    rows = np.arange(len(centres))
    matrix[rows, low] += 1 - share
    matrix[rows, low + 1] += share
    matrix[(centres < first - slack) | (centres > last + slack)] = 0.0
    return matrix.astype(np.float32)


def along_axis(nodes: Array, grid: Grid, axis: int) -> Volume:
    """Matrix (grid, nodes) along a patient axis: interpolation between coarse samples, averages of fine ones.

    ``nodes`` may descend, as an image's do where the patient lies the other way round.
    """
    order = np.argsort(nodes)
    ascending = nodes[order]
    step = float(np.median(np.diff(ascending))) if len(nodes) > 1 else grid.spacing_mm[axis]
    if len(nodes) > 1 and np.diff(ascending).min() <= 0:
        raise InputError("two image planes lie at one position")
    centres = grid.centres_mm(axis)
    fine = step < 0.75 * grid.spacing_mm[axis]
    made = average_matrix(ascending, centres, grid.spacing_mm[axis]) if fine else linear_matrix(ascending, centres)
    matrix = np.empty_like(made)
    matrix[:, order] = made
    return matrix


def sample(volume: Volume, lattice: Lattice, grid: Grid, fill: float) -> Volume:
    """Return trilinear values of ``volume`` (frames, rows, columns) at the grid's voxel centres, ``fill`` outside. For
    tilted lattices, whose frames may be uneven."""
    out = np.empty(grid.shape, dtype=np.float32)
    heights = lattice.heights_mm
    frames = np.arange(len(heights), dtype=np.float64)
    y, x = np.meshgrid(grid.centres_mm(1), grid.centres_mm(2), indexing="ij")
    for k, z in enumerate(grid.centres_mm(0)):
        points = np.stack([np.full(y.size, z), y.ravel(), x.ravel()], axis=1)
        height, row, column = lattice.index(points)
        inside = (height >= heights[0] - 1e-6) & (height <= heights[-1] + 1e-6)
        frame = np.where(inside, np.interp(height, heights, frames), -10.0)
        plane = ndimage.map_coordinates(volume, [frame, row, column], order=1, mode="constant", cval=fill)
        out[k] = plane.reshape(y.shape)
    return out
