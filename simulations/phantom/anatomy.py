"""Synthetic head-and-neck anatomy, drawn as smooth shapes in millimetres: body, organs, targets, CT.

Coordinates are (z, y, x) LPS mm about a point in the pharynx at the height of the angle of the jaw. Sizes and positions
follow what OpenKBP's training patients show (means and spreads of extents and centroids about the high-dose target).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.patient.case import Mask, Volume
from shared_model.patient.geometry import Grid
from simulations.phantom.canvas import Canvas, Field

# Body outline by height: half width (x), half depth (y) and centre (y), mm; the shoulders shift with each patient.
_HEIGHT_MM = np.array([-220.0, -110.0, -80.0, -50.0, -15.0, 20.0, 60.0, 100.0, 170.0])
_HALF_WIDTH_MM = np.array([242.0, 228.0, 195.0, 120.0, 82.0, 80.0, 86.0, 92.0, 84.0])
_HALF_DEPTH_MM = np.array([105.0, 100.0, 92.0, 84.0, 86.0, 96.0, 107.0, 112.0, 105.0])
_CENTRE_Y_MM = np.array([56.0, 50.0, 42.0, 32.0, 22.0, 15.0, 13.0, 13.0, 14.0])

_TAPER = 0.15  # share of the half width that the outline loses in front and gains behind

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]  # (z, y, x), each from and to, mm

_SKIN_MM = 4.0  # targets stay this far below the skin


@dataclass(frozen=True, kw_only=True)
class AnatomyStyle:
    """Who a hospital treats. Lengths in mm.

    ``sites_mm`` are heights of primary tumours with their chances; ``primary_mm`` the mean radii (z, y, x) of the
    primary's planning target; ``unilateral`` the chance that one side of the neck alone is treated; ``nodes_mm`` the
    mean lower and upper end of the treated neck nodes. ``size`` scales the body. ``present`` is the chance that an
    organ is contoured (1 if not named). ``field_margin_mm`` is how far the stored body reaches beyond targets in z.
    ``voxel_mm`` (z, y, x) is the finest spacing of a grid of 32 voxels an edge.
    """

    sites_mm: tuple[tuple[float, float], ...] = ((0.0, 0.55), (-38.0, 0.25), (32.0, 0.20))
    primary_mm: tuple[float, float, float] = (40.0, 37.0, 36.0)
    unilateral: float = 0.10
    nodes_mm: tuple[float, float] = (-84.0, 58.0)
    size: float = 1.0
    present: Mapping[str, float] = field(default_factory=dict)
    field_margin_mm: float = 28.0
    voxel_mm: tuple[float, float, float] = (5.5, 8.8, 8.8)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One drawn patient. ``targets`` are disjoint, from the highest level; ``organs`` by TG-263 name."""

    grid: Grid
    body: Mask
    ct_hu: Volume
    organs: dict[str, Mask]
    targets: tuple[Mask, ...]


@dataclass(frozen=True)
class _Patient:
    """Everything random about a patient, drawn before anything is rasterised."""

    size: float
    shoulder_mm: float
    shift_mm: Field  # (organ jitter, 3)
    scale: Field  # organ size jitter
    primary_zyx: NDArray[np.float64]
    primary_radii: NDArray[np.float64]
    lumps: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    side: int
    bilateral: bool
    nodes_mm: tuple[float, float]
    nodes_scale: float
    margins_mm: tuple[float, float]


def _draw_patient(style: AnatomyStyle, rng: np.random.Generator) -> _Patient:
    heights, chances = zip(*style.sites_mm, strict=True)
    height = float(rng.choice(heights, p=np.array(chances) / sum(chances))) + rng.normal(0, 8)
    side = 1 if rng.random() < 0.5 else -1
    bilateral = bool(rng.random() >= style.unilateral)
    midline = rng.normal(12.0, 10.0) if bilateral else rng.normal(28.0, 8.0)
    size = style.size * float(np.exp(rng.normal(0, 0.05)))
    primary = np.array([height, rng.normal(-10, 7), side * midline])
    radii = np.array(style.primary_mm) * np.exp(rng.normal(0, 0.13, 3) + rng.normal(0, 0.20))
    lumps = []
    for neck_side, chance in ((side, 0.75), (-side, 0.3 if bilateral else 0.0)):
        if rng.random() < chance:
            centre = np.array([height - rng.uniform(0, 30), rng.normal(16, 5), neck_side * rng.normal(42, 4)])
            lumps.append((centre, np.array([34.0, 24.0, 18.0]) * np.exp(rng.normal(0, 0.22))))
    return _Patient(
        size=size,
        shoulder_mm=float(rng.normal(-4, 24)),
        shift_mm=rng.normal(0, 3.5, (8, 3)).astype(np.float32),
        scale=np.exp(rng.normal(0, 0.10, 8)).astype(np.float32),
        primary_zyx=primary,
        primary_radii=radii,
        lumps=tuple(lumps),
        side=side,
        bilateral=bilateral,
        nodes_mm=(style.nodes_mm[0] + float(rng.normal(0, 12)), style.nodes_mm[1] + float(rng.normal(0, 9))),
        nodes_scale=float(np.exp(rng.normal(0, 0.12))),
        margins_mm=(
            max(8.0, style.field_margin_mm + float(rng.normal(0, 7))),
            max(8.0, style.field_margin_mm + float(rng.normal(0, 7))),
        ),
    )


def _outline(patient: _Patient, z_mm: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Half width, half depth and centre of the body at heights ``z_mm``."""
    knots = _HEIGHT_MM + np.where(_HEIGHT_MM < 0, patient.shoulder_mm * np.clip(-_HEIGHT_MM / 50, 0, 1), 0)
    width, depth, centre = (np.interp(z_mm, knots, table) for table in (_HALF_WIDTH_MM, _HALF_DEPTH_MM, _CENTRE_Y_MM))
    return width * patient.size, depth * patient.size, centre


def _cord_y(z_mm: NDArray[Any]) -> NDArray[Any]:
    """The cord's y by height: the neck's lordosis, then the chest's kyphosis."""
    return np.where(z_mm < 10, 48.0 + 0.0016 * (z_mm - 10) ** 2, 48.0 - 0.2 * (z_mm - 10))


def _treated_heights(patient: _Patient) -> tuple[float, float]:
    ends = [(c[0] - r[0], c[0] + r[0]) for c, r in ((patient.primary_zyx, patient.primary_radii), *patient.lumps)]
    ends.append(patient.nodes_mm)
    return min(low for low, _ in ends), max(high for _, high in ends)


def _make_grid(patient: _Patient, style: AnatomyStyle, shape: tuple[int, int, int]) -> Grid:
    """The grid of ``shape`` voxels over the body's box, no finer than the scanner's voxels at 32 voxels an edge."""
    low, high = _treated_heights(patient)
    z = np.arange(low - patient.margins_mm[0], high + patient.margins_mm[1] + 1.0)
    width, depth, centre = _outline(patient, z)
    box = (
        (z[0], z[-1]),
        (float((centre - depth).min()), float((centre + depth).max())),
        (-float(width.max()), float(width.max())),
    )
    return box_grid(box, style.voxel_mm, shape)


def box_grid(box: Box, voxel_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> Grid:
    """The grid of ``shape`` voxels about ``box``, no finer than ``voxel_mm`` would be at 32 voxels an edge."""
    spacing, origin = [], []
    for axis, (start, end) in enumerate(box):
        step = max((end - start) / shape[axis], voxel_mm[axis] * 32 / shape[axis])
        spacing.append(float(step))
        origin.append(float(0.5 * (start + end) - 0.5 * (shape[axis] - 1) * step))
    return Grid(shape, (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]))


def _draw_organs(canvas: Canvas, patient: _Patient, body: Field) -> dict[str, NDArray[np.bool_]]:
    shift, scale, s = patient.shift_mm, patient.scale, patient.size
    z = canvas.z
    cord_y = _cord_y(z)
    inside = body < 0.97

    def ellipsoid(index: int, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Any:
        at = np.array(centre) * (1.0, 1.0, s) + shift[index]
        return (canvas.ellipsoid(at, np.array(radii) * scale[index]) <= 1) & inside

    cord = (canvas.tube(cord_y, shift[1, 2] / 2, 6.8, 6.8) <= 1) & (z < 54 + shift[1, 0]) & inside
    esophagus = (canvas.tube(cord_y - 32, shift[4, 2], 7.5, 8.5) <= 1) & (z < -58 + 2 * shift[4, 0]) & inside
    arch = canvas.tube(-12 + shift[6, 1], 0.0, 52 * scale[6], 46 * s)
    bend = (arch <= 1) & (canvas.tube(-9 + shift[6, 1], 0.0, 43 * scale[6], 37 * s) > 1)
    # The body of the jaw slopes down to the front, the branches rise behind.
    jaw_z = z - shift[6, 0] - 12
    jaw = (
        bend & (canvas.y < 6) & np.where(canvas.y < -18, np.abs(jaw_z + 6) < 13, (jaw_z > -18) & (jaw_z < 46)) & inside
    )
    return {
        "Brainstem": ellipsoid(0, (78.0, 34.0, 0.0), (29.0, 15.5, 16.0)),
        "SpinalCord": cord,
        "Parotid_R": ellipsoid(2, (38.0, 8.0, -59.0), (25.0, 19.0, 13.5)),
        "Parotid_L": ellipsoid(3, (38.0, 8.0, 59.0), (25.0, 19.0, 13.5)),
        "Esophagus": esophagus,
        "Larynx": ellipsoid(5, (-42.0, -6.0, 0.0), (19.0, 19.0, 18.0)),
        "Bone_Mandible": jaw,
    }


def _draw_targets(canvas: Canvas, patient: _Patient, body: Field, levels: int) -> list[NDArray[np.bool_]]:
    """Nested targets from the highest level: tumour with involved nodes, with the high-risk margin, with the neck."""
    gross = [canvas.ellipsoid(patient.primary_zyx, patient.primary_radii)]
    gross += [canvas.ellipsoid(centre, radii) for centre, radii in patient.lumps]
    high = np.minimum.reduce(gross) <= 1
    if levels == 1:
        drawn = [high]
    else:
        low_z, high_z = patient.nodes_mm
        # Lower in the neck the nodes lie further forward and spread out above the collar bones.
        down = np.clip((-20 - canvas.z) / 55, 0, 1)
        elective = high.copy()
        margin = high.copy()
        for side in (patient.side, -patient.side) if patient.bilateral else (patient.side,):
            # The chain slants outwards to the back.
            centre_y = 25 - 10 * down
            slant = 0.4 * (canvas.y - centre_y) * (1 - down)
            column = canvas.tube(
                centre_y,
                side * (45 * patient.size + 12 * down + slant),
                (30 - 4 * down) * patient.nodes_scale,
                (12.5 + 15 * down) * patient.nodes_scale,
            )
            column_in = (column <= 1) & canvas.between(low_z, high_z)
            elective |= column_in
            if side == patient.side:
                margin |= column_in & canvas.between(
                    float(patient.primary_zyx[0]) - 45, float(patient.primary_zyx[0]) + 35
                )
        around = canvas.ellipsoid(patient.primary_zyx, patient.primary_radii + 6.0) <= 1
        margin |= around
        elective |= canvas.ellipsoid(patient.primary_zyx, patient.primary_radii + 8.0) <= 1
        drawn = [high, margin, elective | margin] if levels == 3 else [high, elective | margin]
    allowed = _target_room(canvas, body)
    return [fine & allowed for fine in drawn]


def make_disjoint(nested: list[Mask]) -> tuple[Mask, ...]:
    """Subtract from each voxel mask all masks before it. This leaves no overlap and no gap between them."""
    targets, taken = [], np.zeros_like(nested[0])
    for mask in nested:
        targets.append(mask & ~taken)
        taken = taken | mask
    return tuple(targets)


def _target_room(canvas: Canvas, body: Field) -> NDArray[np.bool_]:
    """Where a target may be: below the skin, outside the cord's margin and most of the vertebra."""
    cord_y = _cord_y(canvas.z)
    spine = (canvas.tube(cord_y, 0.0, 13.0, 14.0) > 1) & (canvas.tube(cord_y - 17, 0.0, 13.0, 15.0) > 1)
    # Outline fields are squared radii, so a depth of _SKIN_MM is about 2 * depth / half width off the skin's 1.
    return np.asarray(spine & (body < 1 - 2 * _SKIN_MM / 90), dtype=bool)


def _draw_ct(canvas: Canvas, body: Field, organs: Mapping[str, NDArray[np.bool_]], rng: np.random.Generator) -> Volume:
    """Hounsfield units: soft tissue, fat under the skin, lungs, bones and airway, averaged over voxels, with noise."""
    cord_y = _cord_y(canvas.z)
    hu = np.where(body < 0.72, 30.0, -95.0).astype(np.float32)
    for side in (-1, 1):
        hu[canvas.ellipsoid((-165.0, 45.0, side * 65.0), (70.0, 60.0, 48.0)) <= 1] = -750.0
    hu[canvas.ellipsoid((72.0, -42.0, 0.0), (26.0, 34.0, 20.0)) <= 1] = -500.0
    vertebra = (canvas.tube(cord_y - 20, 0.0, 12.0, 15.0) <= 1) | (canvas.tube(cord_y + 4, 0.0, 15.0, 20.0) <= 1)
    hu[vertebra & (body < 0.9)] = 380.0
    hu[organs["SpinalCord"]] = 30.0
    hu[organs["Bone_Mandible"]] = 750.0
    skull = (body > 0.80) & (body < 0.92) & (canvas.z > 72)
    hu[skull] = 800.0
    airway = (canvas.tube(cord_y - 50, 0.0, 8.0, 9.0) <= 1) & (canvas.z < 25)
    hu[airway] = -950.0
    hu[body > 1] = -1000.0
    mean = canvas.coverage(hu)
    noise = ndimage.gaussian_filter(rng.normal(0, 40, canvas.grid.shape), 0.7)
    return np.clip(mean + noise * (mean > -700), -1000, 3000).astype(np.float32)


def draw_anatomy(style: AnatomyStyle, levels: int, shape: tuple[int, int, int], rng: np.random.Generator) -> Anatomy:
    """One patient with ``levels`` (1 to 3) target levels on a grid over the body's box; deterministic given ``rng``."""
    patient = _draw_patient(style, rng)
    grid = _make_grid(patient, style, shape)
    canvas = Canvas(grid)
    width, depth, centre = _outline(patient, canvas.z)
    # The neck is narrower in front than behind.
    body = canvas.tube(centre, 0.0, depth, width * (1 + _TAPER * (canvas.y - centre) / depth))
    low, high = _treated_heights(patient)
    in_field = canvas.between(low - patient.margins_mm[0], high + patient.margins_mm[1])
    organs = _draw_organs(canvas, patient, body)
    ct_hu = _draw_ct(canvas, body, organs, rng)
    contoured = {name: canvas.mask(fine) for name, fine in organs.items()}
    shown = {name: rng.random() < style.present.get(name, 1.0) for name in contoured}
    fine_targets = _draw_targets(canvas, patient, body, levels)
    body_mask = canvas.mask((body <= 1) & in_field)
    targets = make_disjoint([canvas.mask(fine & in_field) & body_mask for fine in fine_targets])
    return Anatomy(
        grid=grid,
        body=body_mask,
        ct_hu=ct_hu,
        organs={name: mask for name, mask in contoured.items() if shown[name] and mask.any()},
        targets=targets,
    )
