"""Photon dose of coplanar IMRT beams from fluence maps, as a linear operator with its adjoint. Numpy and scipy only.

Each beam's fluence is blurred twice at the isocentre plane (a narrow primary, a wide scatter kernel), sampled at every
voxel's divergent projection and weighted by depth dose, inverse square and a scatter share that grows with depth.
Radiological depth follows fan rays within each transverse slice; the tilt of rays out of the slice, below 6 degrees
here, is left out.

Constants describe a 6 MV beam: attenuation and scatter share were fitted to pyRadPlan's pencil beam, kernel widths were
chosen so that plans fall off as OpenKBP's do. It makes plausible plans for simulations; it is no clinical calculation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shared_model.patient.geometry import Grid, Triple
from shared_model.patient.plates import SOURCE_DISTANCE_MM, BeamView, beam_view, footprint_mm

_PIXEL_MM = 6.0  # fluence pixel at the isocentre
_APERTURE_MARGIN_MM = 1.0
_MAP_PAD_MM = 33.0  # how far scatter reaches beyond the aperture

_BUILD_UP_CM, _SURFACE_DEFICIT = 0.45, 0.82
_ATTENUATION_PER_CM = 0.030
_PRIMARY_SIGMA_MM, _SCATTER_SIGMA_MM = 3.5, 11.0
_SCATTER_AT_SURFACE, _SCATTER_GAIN, _SCATTER_DEPTH_CM = 0.04, 0.17, 12.0

# Relative electron density by HU (piecewise linear).
_HU = (-1000.0, -100.0, 0.0, 100.0, 1000.0, 3000.0)
_DENSITY = (0.0, 0.93, 1.0, 1.06, 1.55, 2.5)

FloatArray = NDArray[np.float32]


def electron_density(ct_hu: FloatArray, body: NDArray[np.bool_]) -> FloatArray:
    """Electron density relative to water, 0 outside the body; (z, y, x)."""
    return np.where(body, np.interp(ct_hu, _HU, _DENSITY), 0.0).astype(np.float32)


def bilinear(
    rows: NDArray[np.floating[Any]], columns: NDArray[np.floating[Any]], shape: tuple[int, int]
) -> tuple[Any, Any]:
    """Flat indices (n, 4) and weights (n, 4) that sample a map of ``shape`` at fractional positions; 0 outside it."""
    r0, c0 = np.floor(rows).astype(np.int32), np.floor(columns).astype(np.int32)
    fr, fc = (rows - r0).astype(np.float32), (columns - c0).astype(np.float32)
    inside = (r0 >= 0) & (c0 >= 0) & (r0 < shape[0] - 1) & (c0 < shape[1] - 1)
    corner = np.where(inside, r0 * shape[1] + c0, 0)
    indices = corner[:, None] + np.array([0, 1, shape[1], shape[1] + 1], dtype=np.int32)
    weights = np.stack([(1 - fr) * (1 - fc), (1 - fr) * fc, fr * (1 - fc), fr * fc], axis=1)
    return indices, weights * inside[:, None]


def _sampler(rows: NDArray[np.float64], columns: NDArray[np.float64], shape: tuple[int, int]) -> Any:
    """Sparse matrix (n, map) of ``bilinear``."""
    indices, weights = bilinear(rows, columns, shape)
    starts = np.arange(len(rows) + 1, dtype=np.int32) * 4
    return sparse.csr_matrix((weights.ravel(), indices.ravel(), starts), shape=(len(rows), shape[0] * shape[1]))


def radiological_depth_cm(
    density_zyx: FloatArray, grid: Grid, isocentre_mm: Triple, gantry_deg: float, step_mm: float = 6.0
) -> FloatArray:
    """Water-equivalent depth of every voxel centre along its ray from the source, cm; (z, y, x)."""
    angle = np.deg2rad(gantry_deg)
    source = np.array([-np.cos(angle), np.sin(angle)]) * SOURCE_DISTANCE_MM
    y = grid.centres_mm(1) - isocentre_mm[1]
    x = grid.centres_mm(2) - isocentre_mm[2]
    dy, dx = (y[:, None] - source[0]).repeat(len(x), 1), (x[None, :] - source[1]).repeat(len(y), 0)
    radius = np.hypot(dy, dx)
    # Angle from the central axis, which runs towards (cos, -sin).
    fan = np.arctan2(dy * np.sin(angle) + dx * np.cos(angle), dy * np.cos(angle) - dx * np.sin(angle))
    r = np.arange(radius.min() - 2 * step_mm, radius.max() + 2 * step_mm, step_mm)
    pitch = step_mm / SOURCE_DISTANCE_MM
    f = np.arange(fan.min() - 2 * pitch, fan.max() + 2 * pitch, pitch)
    along, across = np.cos(f)[:, None] * r, np.sin(f)[:, None] * r
    ray_y = source[0] + along * np.cos(angle) + across * np.sin(angle)
    ray_x = source[1] - along * np.sin(angle) + across * np.cos(angle)
    plane = (len(y), len(x))
    # One voxel of air around the slice, so that rays enter and leave it smoothly.
    padded = np.pad(density_zyx, ((0, 0), (1, 1), (1, 1))).reshape(len(density_zyx), -1)
    onto_rays = _sampler(
        ((ray_y - y[0]) / grid.spacing_mm[1] + 1).ravel(),
        ((ray_x - x[0]) / grid.spacing_mm[2] + 1).ravel(),
        (plane[0] + 2, plane[1] + 2),
    )
    on_rays = (onto_rays @ padded.T).reshape(len(f), len(r), -1)
    depth_mm = (np.cumsum(on_rays, axis=1) - 0.5 * on_rays) * step_mm
    back = _sampler(((fan - f[0]) / pitch).ravel(), ((radius - r[0]) / step_mm).ravel(), (len(f), len(r)))
    depth = back @ depth_mm.reshape(len(f) * len(r), -1)
    return np.asarray(depth.T.reshape(-1, *plane) / 10.0, dtype=np.float32)


def _gaussian_matrix(n: int, sigma_mm: float) -> FloatArray:
    """(n, n) Gaussian blur of n fluence pixels; what is blurred beyond the map is lost, as it should be."""
    offset = (np.arange(n)[:, None] - np.arange(n)[None]) * _PIXEL_MM
    kernel = np.exp(-0.5 * (offset / sigma_mm) ** 2)
    reach = np.arange(-200, 201) * _PIXEL_MM
    return np.asarray(kernel / np.exp(-0.5 * (reach / sigma_mm) ** 2).sum(), dtype=np.float32)


class _Beam:
    """One beam: its fluence map, which pixels are open, its blurs, and how each voxel samples the two blurred maps."""

    def __init__(
        self, view: BeamView, height_zyx: FloatArray, target: NDArray[np.bool_], voxel_mm: tuple[float, float]
    ) -> None:
        z, y, x = np.nonzero(target)
        height, lateral = height_zyx[z, y, x], view.lateral_yx[y, x]
        self.low = float(height.min()) - _MAP_PAD_MM, float(lateral.min()) - _MAP_PAD_MM
        self.shape = (
            int((float(height.max()) + _MAP_PAD_MM - self.low[0]) / _PIXEL_MM) + 2,
            int((float(lateral.max()) + _MAP_PAD_MM - self.low[1]) / _PIXEL_MM) + 2,
        )
        self.open = self._aperture(height, lateral, voxel_mm)
        # A voxel holds the mean dose of its box: its footprint adds to the penumbra (variance of a uniform box).
        self.blurs = [
            tuple(
                _gaussian_matrix(n, float(np.hypot(sigma, box / np.sqrt(12))))
                for n, box in zip(self.shape, voxel_mm, strict=True)
            )
            for sigma in (_PRIMARY_SIGMA_MM, _SCATTER_SIGMA_MM)
        ]

    def _aperture(self, height: Any, lateral: Any, voxel_mm: tuple[float, float]) -> NDArray[np.bool_]:
        """Pixels within the margin of a target voxel's box, so that coarse voxels leave no holes."""
        opened = np.zeros(self.shape, dtype=bool)
        reach = [int(np.ceil((_APERTURE_MARGIN_MM + 0.5 * box) / _PIXEL_MM)) for box in voxel_mm]
        row, column = (height - self.low[0]) / _PIXEL_MM, (lateral - self.low[1]) / _PIXEL_MM
        near_row, near_column = np.rint(row).astype(int), np.rint(column).astype(int)
        for i in range(-reach[0], reach[0] + 1):
            for j in range(-reach[1], reach[1] + 1):
                within = np.abs(near_row + i - row) * _PIXEL_MM <= _APERTURE_MARGIN_MM + 0.5 * voxel_mm[0]
                within &= np.abs(near_column + j - column) * _PIXEL_MM <= _APERTURE_MARGIN_MM + 0.5 * voxel_mm[1]
                opened[near_row[within] + i, near_column[within] + j] = True
        return opened


class DoseEngine:
    """Dose in ``points`` (a mask of n voxels) of coplanar beams aimed at ``target``, linear in open pixels' fluence.

    ``dose(fluence)`` maps (p,) to (n,), ``gradient`` is its exact adjoint (n,) to (p,). Fluence is >= 0 and without
    unit: a wide open beam of fluence 1 gives about 1 at its depth maximum at the isocentre.
    """

    def __init__(
        self,
        density_zyx: FloatArray,
        grid: Grid,
        isocentre_mm: Triple,
        gantry_deg: Sequence[float],
        target: NDArray[np.bool_],
        points: NDArray[np.bool_],
    ) -> None:
        z, y, x = np.nonzero(points)
        height = (grid.centres_mm(0) - isocentre_mm[0]).astype(np.float32)
        self._beams: list[_Beam] = []
        indices, weights, start = [], [], 0
        for gantry in gantry_deg:
            view = beam_view(grid, isocentre_mm, gantry)
            height_zyx = (height[:, None, None] * view.scale_yx).astype(np.float32)
            beam = _Beam(view, height_zyx, target, (grid.spacing_mm[0], footprint_mm(grid, gantry)))
            depth = radiological_depth_cm(density_zyx, grid, isocentre_mm, gantry)[z, y, x]
            where, share = bilinear(
                (height_zyx[z, y, x] - beam.low[0]) / _PIXEL_MM,
                (view.lateral_yx[y, x] - beam.low[1]) / _PIXEL_MM,
                beam.shape,
            )
            pixels = beam.shape[0] * beam.shape[1]
            primary, scatter = _depth_weights(depth, view.source_squared_yx[y, x] + height[z] ** 2)
            indices += [where + start, where + start + pixels]
            weights += [share * primary[:, None], share * scatter[:, None]]
            start += 2 * pixels
            self._beams.append(beam)
        per_row = 4 * len(indices)
        self._sample = sparse.csr_matrix(
            (
                np.concatenate(weights, axis=1).astype(np.float32).ravel(),
                np.concatenate(indices, axis=1).astype(np.int32).ravel(),
                np.arange(len(z) + 1, dtype=np.int32) * per_row,
            ),
            shape=(len(z), start),
        )
        self.fluence_size = sum(int(beam.open.sum()) for beam in self._beams)

    def restrict(self, rows: NDArray[np.intp]) -> DoseEngine:
        """The same beams, with dose only in the points that ``rows`` (indices into the points) names: to optimise."""
        part = object.__new__(DoseEngine)
        part._beams, part.fluence_size, part._sample = self._beams, self.fluence_size, self._sample[rows]
        return part

    def dose(self, fluence: NDArray[np.floating[Any]]) -> FloatArray:
        """Dose in the points, (n,), of the fluence of all open pixels, beam after beam, (p,)."""
        blurred, start = [], 0
        for beam in self._beams:
            stop = start + int(beam.open.sum())
            fluence_map = np.zeros(beam.shape, dtype=np.float32)
            fluence_map[beam.open] = fluence[start:stop]
            blurred += [(rows @ fluence_map @ columns).ravel() for rows, columns in beam.blurs]
            start = stop
        result: FloatArray = self._sample @ np.concatenate(blurred)
        return result

    def gradient(self, by_dose: NDArray[np.floating[Any]]) -> FloatArray:
        """Adjoint of ``dose``: derivative by fluence (p,) from the derivative by dose (n,)."""
        by_map, start, parts = self._sample.T @ by_dose.astype(np.float32), 0, []
        for beam in self._beams:
            total = np.zeros(beam.shape, dtype=np.float32)
            for rows, columns in beam.blurs:
                stop = start + total.size
                total += rows.T @ by_map[start:stop].reshape(beam.shape) @ columns.T
                start = stop
            parts.append(total[beam.open])
        return np.concatenate(parts)


def _depth_weights(depth_cm: FloatArray, source_squared_mm2: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Weights of the primary and the scatter map at a depth: build-up, attenuation, inverse square, scatter share."""
    dose = (1 - _SURFACE_DEFICIT * np.exp(-depth_cm / _BUILD_UP_CM)) * np.exp(-_ATTENUATION_PER_CM * depth_cm)
    dose = dose * SOURCE_DISTANCE_MM**2 / source_squared_mm2
    scatter = _SCATTER_AT_SURFACE + _SCATTER_GAIN * (1 - np.exp(-depth_cm / _SCATTER_DEPTH_CM))
    return (dose * (1 - scatter)).astype(np.float32), (dose * scatter).astype(np.float32)
