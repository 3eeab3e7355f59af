"""Synthetic male pelvis, drawn as smooth shapes in millimetres: body, organs, bones, targets, CT.

Coordinates are (z, y, x) LPS mm about the middle of the prostate. Sizes and positions are those of textbook anatomy:
a prostate of about 40 cm^3, a bladder of 100 to 400 cm^3 by its filling, femoral heads of 48 mm, 180 mm apart. No
patient's data went into them. Organs do not overlap each other; planning targets overlap bladder and rectum, as they do
in clinics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.patient.case import Volume
from simulations.phantom.anatomy import Anatomy, Box, box_grid, make_disjoint
from simulations.phantom.canvas import Canvas, Field

Fine = NDArray[np.bool_]  # on the canvas, finer than the grid

# Body outline by height: half width (x), half depth (y) and centre (y), mm.
_HEIGHT_MM = np.array([-140.0, -90.0, -50.0, 0.0, 60.0, 120.0, 200.0])
_HALF_WIDTH_MM = np.array([168.0, 174.0, 182.0, 188.0, 180.0, 168.0, 160.0])
_HALF_DEPTH_MM = np.array([90.0, 102.0, 110.0, 114.0, 110.0, 104.0, 100.0])
_CENTRE_Y_MM = np.array([12.0, 10.0, 8.0, 4.0, 0.0, -6.0, -10.0])

_FAT_BEYOND = 0.80  # of the body's squared radius: fat lies under the skin
_SKIN = 0.94  # targets stay within this squared radius, some 3 mm below the skin
_GAS_CHANCE = 0.4  # that the rectum holds gas


@dataclass(frozen=True, kw_only=True)
class PelvisStyle:
    """Who a hospital treats. Lengths in mm.

    ``margin_mm`` is the planning margin about prostate and seminal vesicles, ``margin_back_mm`` the one towards the
    rectum. ``nodes``: the last target level takes in the pelvic lymph nodes. ``bladder`` scales the bladder, which the
    clinic's drinking protocol decides; ``size`` the body. ``present`` is the chance that an organ is contoured (1 if
    not named). ``field_margin_mm`` is how far the stored body reaches beyond targets in z. ``voxel_mm`` (z, y, x) is
    the finest spacing of a grid of 32 voxels an edge.
    """

    margin_mm: float = 7.0
    margin_back_mm: float = 5.0
    nodes: bool = False
    bladder: float = 1.0
    size: float = 1.0
    present: Mapping[str, float] = field(default_factory=dict)
    field_margin_mm: float = 34.0
    voxel_mm: tuple[float, float, float] = (5.0, 8.0, 8.0)


@dataclass(frozen=True)
class _Pelvis:
    """Everything random about a patient, drawn before anything is rasterised."""

    size: float
    prostate_radii: NDArray[np.float64]
    vesicle_z: float
    bladder_radii: NDArray[np.float64]
    rectum_radius: float
    rectum_x: float
    gas: bool
    head_x: float
    sigmoid_side: int
    shift_mm: NDArray[np.float64]  # (organ jitter, 3)
    nodes_top_mm: float
    margins_mm: tuple[float, float]

    @property
    def bladder_zyx(self) -> tuple[float, float, float]:
        """The bladder rests on the prostate and leans to the front."""
        return (0.72 * self.prostate_radii[0] + 0.82 * self.bladder_radii[0], -14.0, 0.0)


def _draw_pelvis(style: PelvisStyle, rng: np.random.Generator) -> _Pelvis:
    return _Pelvis(
        size=style.size * float(np.exp(rng.normal(0, 0.05))),
        prostate_radii=np.array([21.0, 18.0, 25.0]) * np.exp(rng.normal(0, 0.10) + rng.normal(0, 0.04, 3)),
        vesicle_z=float(rng.normal(3.0, 2.0)),
        bladder_radii=np.array([32.0, 35.0, 42.0]) * style.bladder ** (1 / 3) * np.exp(rng.normal(0, 0.13)),
        rectum_radius=float(14.0 * np.exp(rng.normal(0, 0.16))),
        rectum_x=float(rng.normal(0, 3)),
        gas=bool(rng.random() < _GAS_CHANCE),
        head_x=float(90.0 * np.exp(rng.normal(0, 0.03))),
        sigmoid_side=1 if rng.random() < 0.7 else -1,
        shift_mm=rng.normal(0, 3.0, (6, 3)),
        nodes_top_mm=float(rng.normal(92.0, 6.0)),
        margins_mm=(
            max(10.0, style.field_margin_mm + float(rng.normal(0, 6))),
            max(10.0, style.field_margin_mm + float(rng.normal(0, 6))),
        ),
    )


def _outline(patient: _Pelvis, z_mm: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Half width, half depth and centre of the body at heights ``z_mm``."""
    width, depth, centre = (
        np.interp(z_mm, _HEIGHT_MM, table) for table in (_HALF_WIDTH_MM, _HALF_DEPTH_MM, _CENTRE_Y_MM)
    )
    return width * patient.size, depth * patient.size, centre


def _rectum_y(patient: _Pelvis, z_mm: NDArray[Any]) -> NDArray[Any]:
    """The rectum's centre: behind the prostate, along the hollow of the sacrum, forward again to the sigmoid."""
    touching = patient.prostate_radii[1] + patient.rectum_radius + 1.5
    up = np.clip(z_mm - 15, 0, None)
    down = np.clip(-22 - z_mm, 0, None)
    return np.asarray(touching + 0.55 * up - 0.0075 * up**2 + 0.25 * down)


def _treated(style: PelvisStyle, patient: _Pelvis, levels: int) -> tuple[float, float]:
    """Lower and upper end of the targets."""
    low = -patient.prostate_radii[0] - style.margin_mm
    vesicles = 0.75 * patient.prostate_radii[0] + patient.vesicle_z + 11 + style.margin_mm
    return float(low), float(max(vesicles, patient.nodes_top_mm) if style.nodes and levels > 1 else vesicles)


def _draw_organs(canvas: Canvas, patient: _Pelvis, inside: Fine) -> tuple[dict[str, Fine], Fine, Fine]:
    """Organs by TG-263 name, then prostate and seminal vesicles, which are targets and no organs at risk."""
    shift, z = patient.shift_mm, canvas.z
    prostate = canvas.ellipsoid((0.0, 0.0, 0.0), patient.prostate_radii) <= 1
    top = 0.75 * patient.prostate_radii[0] + patient.vesicle_z
    back = 0.62 * patient.prostate_radii[1]
    vesicles = np.logical_or.reduce(
        [canvas.ellipsoid((top, back, side * 15.0), (11.0, 7.0, 17.0)) <= 1 for side in (-1, 1)]
    )
    vesicles &= ~prostate
    taken = prostate | vesicles
    radius = patient.rectum_radius
    tube = canvas.tube(_rectum_y(patient, z), patient.rectum_x, radius, radius * 1.12)
    rectum = (tube <= 1) & canvas.between(-24.0, 92.0) & inside & ~taken
    anus = canvas.tube(_rectum_y(patient, z), patient.rectum_x, 12.0, 12.0)
    canal = (anus <= 1) & canvas.between(-62.0, -24.0) & inside
    taken |= rectum | canal
    bladder = (canvas.ellipsoid(patient.bladder_zyx, patient.bladder_radii) <= 1) & inside & ~taken
    taken |= bladder
    sigmoid_at = np.array([104.0, 16.0, 22.0 * patient.sigmoid_side]) + shift[1]
    sigmoid = (canvas.ellipsoid(sigmoid_at, (17.0, 26.0, 36.0)) <= 1) & inside & ~taken
    taken |= sigmoid
    roof = patient.bladder_zyx[0] + 0.75 * patient.bladder_radii[0]
    bowel = (canvas.ellipsoid((roof + 58.0, -20.0, 0.0), (62.0, 56.0, 92.0)) <= 1) & inside & ~taken
    heads = {
        f"Femur_Head_{name}": (canvas.ellipsoid(_head(patient, side), (24.0, 24.0, 24.0)) <= 1) & inside
        for name, side in (("R", -1), ("L", 1))
    }
    bulb_z = -patient.prostate_radii[0] - 14.0
    bulb = (canvas.ellipsoid(np.array([bulb_z, 6.0, 0.0]) + shift[0] / 2, (8.0, 8.0, 11.0)) <= 1) & ~taken
    organs = {"PenileBulb": bulb, "Colon_Sigmoid": sigmoid, **heads, "Rectum": rectum, "Bladder": bladder}
    return {**organs, "Spc_Bowel": bowel, "Canal_Anal": canal}, prostate, vesicles


def _head(patient: _Pelvis, side: int) -> tuple[float, float, float]:
    """Centre of a femoral head; x grows to the patient's left."""
    return (22.0 + float(patient.shift_mm[2, 0]), -4.0 + float(patient.shift_mm[2, 1]), side * patient.head_x)


def _draw_targets(
    canvas: Canvas, style: PelvisStyle, patient: _Pelvis, levels: int, vesicles: Fine, room: Fine
) -> list[Fine]:
    """Nested targets from the highest level: prostate; with the vesicles; with the lymph nodes where they are treated.

    A single level takes in the vesicles.
    """
    # The margin to the back is smaller: the ellipsoid is shorter and lies further forward.
    ahead = 0.5 * (style.margin_mm - style.margin_back_mm)
    radii = patient.prostate_radii + np.array([style.margin_mm, style.margin_mm - ahead, style.margin_mm])
    prostate = canvas.ellipsoid((0.0, -ahead, 0.0), radii) <= 1
    top, back = 0.75 * patient.prostate_radii[0] + patient.vesicle_z, 0.62 * patient.prostate_radii[1]
    grown = (11.0 + style.margin_mm, 7.0 + 0.5 * (style.margin_mm + style.margin_back_mm), 22.0)
    around = [canvas.ellipsoid((top, back - ahead, side * 15.0), grown) <= 1 for side in (-1, 1)]
    wide = np.logical_or.reduce([prostate, vesicles, *around])
    nested = [wide] if levels == 1 else [prostate, wide]
    if style.nodes and levels > 1:
        nodes = wide.copy()
        for side in (-1, 1):
            # Along the iliac vessels: from beside the bladder up, back and towards the middle.
            up = np.clip((canvas.z - 20) / 75, 0, 1)
            column = canvas.tube(-8 + 22 * up, side * (58 - 14 * up), 22.0, 14.0)
            nodes |= (column <= 1) & canvas.between(12.0, patient.nodes_top_mm)
        nested = [prostate, nodes] if levels == 2 else [prostate, wide, nodes]
    return [np.asarray(fine & room, dtype=bool) for fine in nested]


def _draw_ct(
    canvas: Canvas, patient: _Pelvis, body: Field, organs: Mapping[str, Fine], prostate: Fine, rng: np.random.Generator
) -> Volume:
    """Hounsfield units: muscle, fat, bones, urine and gas, averaged over voxels, with noise."""
    hu = np.where(body < _FAT_BEYOND, 40.0, -100.0).astype(np.float32)
    hu[canvas.ellipsoid((50.0, 0.0, 0.0), (80.0, 58.0, 62.0)) <= 1] = -80.0  # fat between the organs
    for side in (-1, 1):
        at = np.array(_head(patient, side))
        hu[(canvas.ellipsoid(at, (36.0, 34.0, 32.0)) <= 1) & (canvas.x * side < patient.head_x + 4)] = 420.0
        hu[canvas.ellipsoid(at, (27.0, 27.0, 27.0)) <= 1] = 60.0  # the joint's space
        hu[canvas.ellipsoid(at + np.array([-22.0, 6.0, side * 34.0]), (26.0, 17.0, 24.0)) <= 1] = (
            380.0  # neck and trochanter
        )
        shaft = canvas.tube(at[1] + 10, at[2] + side * 42, 16.0, 15.0)
        hu[(shaft <= 1) & (canvas.z < at[0] - 30)] = 900.0
        hu[(shaft <= 0.35) & (canvas.z < at[0] - 30)] = 50.0
        hu[canvas.ellipsoid((-34.0, 26.0, side * 58.0), (30.0, 15.0, 14.0)) <= 1] = 450.0  # ischium
        hu[canvas.ellipsoid((-6.0, -46.0, side * 26.0), (12.0, 9.0, 26.0)) <= 1] = 480.0  # pubic rami
        wing = canvas.ellipsoid((105.0, 16.0, side * 98.0), (66.0, 62.0, 20.0))
        hu[(wing <= 1) & (body < 0.85)] = 420.0
        hu[organs[f"Femur_Head_{'L' if side > 0 else 'R'}"]] = 360.0
    sacrum_y = 74 + 0.12 * np.clip(canvas.z - 40, 0, None) - 0.004 * np.clip(canvas.z - 40, 0, None) ** 2
    sacrum = canvas.tube(sacrum_y, 0.0, 17.0, 14.0 + 0.3 * np.clip(canvas.z - 20, 0, 100))
    hu[(sacrum <= 1) & (canvas.z > 15) & (body < 0.85)] = 330.0
    hu[prostate] = 40.0
    for name, value in (("Rectum", 35.0), ("Canal_Anal", 45.0), ("Bladder", 8.0), ("PenileBulb", 45.0)):
        hu[organs[name]] = value
    hu[organs["Colon_Sigmoid"] | organs["Spc_Bowel"]] = 15.0
    if patient.gas:
        lumen = canvas.tube(
            _rectum_y(patient, canvas.z) - 3,
            patient.rectum_x,
            0.55 * patient.rectum_radius,
            0.6 * patient.rectum_radius,
        )
        hu[(lumen <= 1) & canvas.between(8.0, 70.0) & organs["Rectum"]] = -800.0
    hu[body > 1] = -1000.0
    mean = canvas.coverage(hu)
    noise = ndimage.gaussian_filter(rng.normal(0, 40, canvas.grid.shape), 0.7)
    return np.clip(mean + noise * (mean > -700), -1000, 3000).astype(np.float32)


def draw_pelvis(style: PelvisStyle, levels: int, shape: tuple[int, int, int], rng: np.random.Generator) -> Anatomy:
    """One patient with ``levels`` (1 to 3) target levels on a grid over the body's box; deterministic given ``rng``."""
    patient = _draw_pelvis(style, rng)
    low, high = _treated(style, patient, levels)
    ends = (low - patient.margins_mm[0], high + patient.margins_mm[1])
    width, depth, centre = _outline(patient, np.arange(ends[0], ends[1] + 1.0))
    box: Box = (
        ends,
        (float((centre - depth).min()), float((centre + depth).max())),
        (-float(width.max()), float(width.max())),
    )
    canvas = Canvas(box_grid(box, style.voxel_mm, shape))
    width, depth, centre = _outline(patient, canvas.z)
    # A pelvis in a slice is squarer than an ellipse.
    body = np.asarray(canvas.tube(centre, 0.0, depth, width) ** 1.25, dtype=np.float32)
    organs, prostate, vesicles = _draw_organs(canvas, patient, body < 0.9)
    ct_hu = _draw_ct(canvas, patient, body, organs, prostate, rng)
    in_field = canvas.between(*ends)
    # Two organs may each cover half of a voxel between them.
    apart = make_disjoint([canvas.mask(fine & in_field) for fine in organs.values()])
    contoured = dict(zip(organs, apart, strict=True))
    shown = {name: rng.random() < style.present.get(name, 1.0) for name in contoured}
    drawn = _draw_targets(canvas, style, patient, levels, vesicles, body < _SKIN)
    body_mask = canvas.mask((body <= 1) & in_field)
    targets = make_disjoint([canvas.mask(fine & in_field) & body_mask for fine in drawn])
    return Anatomy(
        grid=canvas.grid,
        body=body_mask,
        ct_hu=ct_hu,
        organs={name: mask for name, mask in contoured.items() if shown[name] and mask.any()},
        targets=targets,
    )
