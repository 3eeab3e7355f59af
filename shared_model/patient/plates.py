"""Beam plate and angle plate: where a treatment plan's beams pass, drawn in millimetres on any grid.

The ideas are those of the GDP-HMM challenge (Gao et al. 2025). The beam plate is the divergent shadow of the target in
every beam, weighted by the inverse square of the distance to the source. The angle plate marks each beam's direction
with a bar. This is the fast form. All beams are coplanar, so a voxel's lateral offset and depth in a beam depend only
on (y, x).

Gantry angles are IEC 61217 for a head-first supine patient: 0 has the source anterior (-y), 90 at the patient's left
(+x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.core.errors import InputError
from shared_model.patient.geometry import Grid, Triple

SOURCE_DISTANCE_MM = 1000.0

# Pixel of the aperture map at the isocentre, and the soft edge (Gaussian sigma) of the shadow.
_PIXEL_MM = 2.5
_EDGE_SIGMA_MM = 3.0

Volume = NDArray[np.float32]
Plane = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BeamView:
    """A beam's-eye view of a grid: per column (y, x) the lateral offset and the scale to the isocentre plane.

    ``lateral_yx`` mm at the isocentre plane, towards the patient's left for gantry 0. ``scale_yx`` multiplies a height
    above the isocentre to give its height at the isocentre plane. ``source_squared_yx`` is the squared distance to the
    source in the isocentre's slice, mm2.
    """

    lateral_yx: Plane
    scale_yx: Plane
    source_squared_yx: Plane


def beam_view(grid: Grid, isocentre_mm: Triple, gantry_deg: float) -> BeamView:
    """Project every column of ``grid`` into the beam from ``gantry_deg`` about ``isocentre_mm`` (z, y, x)."""
    angle = np.deg2rad(gantry_deg)
    y = grid.centres_mm(1)[:, None] - isocentre_mm[1]
    x = grid.centres_mm(2)[None, :] - isocentre_mm[2]
    # Source at (y, x) = D (-cos, sin); the beam runs towards (cos, -sin), lateral is (sin, cos).
    along = SOURCE_DISTANCE_MM + y * np.cos(angle) - x * np.sin(angle)
    lateral = y * np.sin(angle) + x * np.cos(angle)
    # A voxel at or behind the source is never in the beam; a floor keeps the division finite.
    along = np.maximum(along, 1.0)
    scale = SOURCE_DISTANCE_MM / along
    return BeamView(lateral_yx=lateral * scale, scale_yx=scale, source_squared_yx=along**2 + lateral**2)


def footprint_mm(grid: Grid, gantry_deg: float) -> float:
    """Width of one voxel seen from the gantry, in the lateral direction, mm."""
    angle = np.deg2rad(gantry_deg)
    return float(grid.spacing_mm[1] * abs(np.sin(angle)) + grid.spacing_mm[2] * abs(np.cos(angle)))


def target_centroid_mm(target_zyx: NDArray[np.bool_], grid: Grid) -> Triple:
    """Centroid of a mask in mm (z, y, x). Raises InputError if the mask is empty."""
    where = np.argwhere(target_zyx)
    if where.size == 0:
        raise InputError("isocentre: the target mask is empty; expected at least one voxel")
    z, y, x = grid.position_mm(where.mean(axis=0))
    return (float(z), float(y), float(x))


def _check(shape: tuple[int, ...], grid: Grid, isocentre_mm: Triple, gantry_deg: Sequence[float]) -> None:
    if shape != grid.shape:
        raise InputError(f"plates: the target mask has shape {shape}, the grid {grid.shape}")
    if not gantry_deg or not np.isfinite(gantry_deg).all() or not np.isfinite(isocentre_mm).all():
        raise InputError("plates: expected at least one gantry angle, and finite angles and isocentre")


def _box_pixels(width_mm: float) -> int:
    """Odd number of aperture pixels that covers ``width_mm``."""
    return 2 * int(np.ceil((width_mm / _PIXEL_MM - 1) / 2)) + 1 if width_mm > _PIXEL_MM else 1


def _aperture(
    weights: NDArray[np.float32], height: Plane, lateral: Plane, box_mm: tuple[float, float]
) -> tuple[NDArray[np.float32], float, float]:
    """Soft map (height, lateral) of the greatest weight behind each pixel, and the position of its corner in mm.

    Every voxel casts the shadow of its whole box, not of its centre, so that a coarse grid leaves no holes.
    """
    pad_mm = 0.5 * max(box_mm) + 4 * _EDGE_SIGMA_MM + 2 * _PIXEL_MM
    low_height, low_lateral = float(height.min()) - pad_mm, float(lateral.min()) - pad_mm
    rows = np.rint((height - low_height) / _PIXEL_MM).astype(np.intp)
    columns = np.rint((lateral - low_lateral) / _PIXEL_MM).astype(np.intp)
    pad = int(np.ceil(pad_mm / _PIXEL_MM)) + 1
    shadow = np.zeros((int(rows.max()) + pad, int(columns.max()) + pad), dtype=np.float32)
    np.maximum.at(shadow, (rows, columns), weights)
    shadow = ndimage.maximum_filter(shadow, size=tuple(_box_pixels(side) for side in box_mm))
    # The filter ends at four sigma and the padding goes further. So the rim is zero, and an index clipped to the rim
    # reads zero.
    shadow = ndimage.gaussian_filter(shadow, _EDGE_SIGMA_MM / _PIXEL_MM, mode="constant", truncate=4.0)
    return shadow, low_height, low_lateral


def _one_beam(
    weights: NDArray[np.float32],
    where_zyx: tuple[NDArray[np.intp], ...],
    grid: Grid,
    isocentre_mm: Triple,
    gantry_deg: float,
    margin_mm: float,
) -> Volume:
    """The target's shadow in one beam with inverse-square weight, (z, y, x). ``weights`` are those of the target's
    voxels ``where_zyx``."""
    view = beam_view(grid, isocentre_mm, gantry_deg)
    height = grid.centres_mm(0) - isocentre_mm[0]
    z, y, x = where_zyx
    box_mm = (grid.spacing_mm[0] + 2 * margin_mm, footprint_mm(grid, gantry_deg) + 2 * margin_mm)
    at_isocentre = height[z] * view.scale_yx[y, x], view.lateral_yx[y, x]
    shadow, low_height, low_lateral = _aperture(weights, *at_isocentre, box_mm)
    columns = np.rint((view.lateral_yx - low_lateral) / _PIXEL_MM).astype(np.int32)
    scale = (view.scale_yx / _PIXEL_MM).astype(np.float32)
    rows = np.rint(height.astype(np.float32)[:, None, None] * scale - np.float32(low_height / _PIXEL_MM)).astype(
        np.int32
    )
    np.clip(columns, 0, shadow.shape[1] - 1, out=columns)
    np.clip(rows, 0, shadow.shape[0] - 1, out=rows)
    distance_squared = view.source_squared_yx.astype(np.float32) + (height**2).astype(np.float32)[:, None, None]
    flat: Volume = shadow.ravel().take(rows * shadow.shape[1] + columns)
    return flat * (np.float32(SOURCE_DISTANCE_MM**2) / distance_squared)


def beam_plate(
    target_zyx: NDArray[np.bool_] | NDArray[np.float32],
    grid: Grid,
    isocentre_mm: Triple,
    gantry_deg: Sequence[float],
    margin_mm: float = 3.0,
) -> Volume:
    """Mean over beams of the target's divergent shadow times (source-isocentre / source-voxel distance) squared.

    ``target_zyx`` is a mask on ``grid``, or weights (prescription / highest prescription, 0 outside the targets). With
    weights, each ray carries the greatest weight that it meets. ``isocentre_mm`` is (z, y, x), ``margin_mm`` the
    aperture's margin at the isocentre. Returns (z, y, x), about 1 where all beams overlap and 1/beams in a single beam.
    An empty target gives zeros. Raises InputError if the target does not fit the grid or there are no angles.
    """
    _check(target_zyx.shape, grid, isocentre_mm, gantry_deg)
    plate = np.zeros(grid.shape, dtype=np.float32)
    if target_zyx.any():
        where = np.nonzero(target_zyx)  # once, not for each of up to hundreds of beams
        weights = target_zyx[where].astype(np.float32)
        for gantry in gantry_deg:
            plate += _one_beam(weights, where, grid, isocentre_mm, gantry, margin_mm)
    return plate / np.float32(len(gantry_deg))


def angle_plate(
    grid: Grid,
    isocentre_mm: Triple,
    gantry_deg: Sequence[float],
    length_mm: float = 125.0,
    width_mm: float = 10.0,
    height_mm: float = 25.0,
) -> Volume:
    """A bar from the isocentre towards the source of each beam, in the slices within ``height_mm / 2`` of it.

    Returns (z, y, x): the covered fraction of each voxel, 1 well inside a bar and 0 outside, so that a bar thinner than
    a voxel fades rather than breaks. Raises InputError if there are no angles.
    """
    _check(grid.shape, grid, isocentre_mm, gantry_deg)
    y = grid.centres_mm(1)[:, None] - isocentre_mm[1]
    x = grid.centres_mm(2)[None, :] - isocentre_mm[2]
    bars = np.zeros(grid.shape[1:], dtype=np.float64)
    for gantry in gantry_deg:
        angle = np.deg2rad(gantry)
        along = x * np.sin(angle) - y * np.cos(angle)
        across = x * np.cos(angle) + y * np.sin(angle)
        pitch_across = footprint_mm(grid, gantry)
        pitch_along = footprint_mm(grid, gantry + 90.0)
        covered = _coverage(across, -width_mm / 2, width_mm / 2, pitch_across)
        bars = np.maximum(bars, covered * _coverage(along, 0.0, length_mm, pitch_along))
    z = grid.centres_mm(0) - isocentre_mm[0]
    slices = _coverage(z, -height_mm / 2, height_mm / 2, grid.spacing_mm[0])
    return (slices[:, None, None] * bars).astype(np.float32)


def _coverage(centre: NDArray[np.float64], low: float, high: float, pitch_mm: float) -> NDArray[np.float64]:
    """Fraction of each interval of ``pitch_mm`` about ``centre`` that lies between ``low`` and ``high``."""
    overlap = np.minimum(centre + pitch_mm / 2, high) - np.maximum(centre - pitch_mm / 2, low)
    return np.clip(overlap / pitch_mm, 0.0, 1.0)
