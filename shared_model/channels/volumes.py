"""From a Case to its stack of channels, modality by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from shared_model.channels import features as base
from shared_model.channels.beams import each_beam
from shared_model.channels.layout import UNIT_GY, Layout
from shared_model.channels.light import light_features
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.patient.case import CONDITIONS, Case, Mask, Volume
from shared_model.patient.geometry import Grid

Stack = NDArray[np.float16]
_Volume = NDArray[np.floating]

# Coplanar delivery of unknown angles is stood in for by nine even ones (shared_model/channels/light.py).
EVEN_DEG: tuple[float, ...] = tuple(40.0 * k for k in range(9))
# Each beam of its own is four volumes; an arc is seen from so many directions at most.
MOST_BEAMS = 12
# A structure's nearness falls by e over this far outside, and rises by one over that far inside.
TARGET_MM, TARGET_DEEP_MM = 60.0, 20.0
ORGAN_MM, ORGAN_DEEP_MM = 30.0, 10.0
BEYOND_MM = 20.0
PLACE_MM, DEPTH_MM, WIDTH_MM = 100.0, 50.0, 300.0
# CT: air is 0, water 1; soft tissue spreads over this window.
HU_UNIT, HU_MOST = 1000.0, 2000.0
SOFT_HU = (-150.0, 150.0)


@dataclass(frozen=True, kw_only=True)
class PatientChannels:
    """One patient as the network sees them: ``stack`` (z, y, x, channels) of layout.Layout on the body's box.

    ``box``: where it lies on the case's grid; ``spacing_mm`` (z, y, x); ``present``: their modalities; ``gantry_deg``:
    the angle of each beam of the stack; ``unit_gy``: dose of 1. The dose channel is 0 where there is no dose.
    """

    case_id: str
    stack: Stack
    box: tuple[tuple[int, int], ...]
    spacing_mm: tuple[float, float, float]
    present: tuple[str, ...]
    gantry_deg: tuple[float, ...]
    unit_gy: float

    @property
    def layout(self) -> Layout:
        """Where the channels lie."""
        return Layout(beams=len(self.gantry_deg))

    @property
    def slices(self) -> tuple[slice, ...]:
        """``box`` as slices."""
        return tuple(slice(low, high) for low, high in self.box)


def patient_channels(case: Case) -> PatientChannels:
    """The stack of a case. Where it has a beam plate and no angles are known, nine even beams stand in for them."""
    small, box = cropped(case)
    with_beams = small.beam_plate is not None and bool(small.targets)
    angles = (thinned(case.gantry_deg) or EVEN_DEG) if with_beams else ()
    layout = Layout(beams=len(angles))
    stack = np.zeros((*small.grid.shape, layout.channels), dtype=np.float16)
    parts = {"body": _body(small)}
    if small.ct_hu is not None:
        parts["ct"] = _ct(small.ct_hu)
    if base.highest_gy(small) > 0:
        parts["ptv"] = _ptv(small)
    if any(name in small.structures for name in OAR_NAMES):
        parts["oar"] = _oar(small)
    if small.beam_plate is not None:
        parts["beam"] = [small.beam_plate, *_lights(small)]
    if small.angle_plate is not None:
        parts["angle"] = [small.angle_plate]
    for modality, volumes in parts.items():
        stack[..., layout.of(modality)] = np.stack(volumes, axis=-1)
    if angles:
        organs = np.zeros(small.grid.shape, dtype=bool)
        for name in OAR_NAMES:
            organs |= small.structures.get(name, False)
        beams = each_beam(small.body, base.relative_prescription(small), organs, small.grid, angles)
        stack[..., layout.each_beam] = beams.reshape(-1, *small.grid.shape).transpose(1, 2, 3, 0)
    unit_gy = base.highest_gy(small) or UNIT_GY
    if small.dose_gy is not None:
        stack[..., layout.index("dose")] = small.dose_gy / np.float32(unit_gy)
    stack *= small.body[..., None]
    present = tuple(m for m in CONDITIONS if m in parts) + (("dose",) if small.dose_gy is not None else ())
    return PatientChannels(
        case_id=case.case_id,
        stack=stack,
        box=box,
        spacing_mm=case.grid.spacing_mm,
        present=present,
        gantry_deg=angles,
        unit_gy=unit_gy,
    )


def thinned(gantry_deg: Sequence[float]) -> tuple[float, ...]:
    """The directions in order, each once to half a degree; of more than MOST_BEAMS (an arc) so many, evenly chosen."""
    ordered = sorted(float(angle) % 360.0 for angle in gantry_deg)
    once: list[float] = []
    for angle in ordered:
        if not once or angle - once[-1] > 0.5:
            once.append(angle)
    if len(once) > 1 and once[0] + 360.0 - once[-1] <= 0.5:
        once.pop()
    if len(once) <= MOST_BEAMS:
        return tuple(once)
    return tuple(once[round(k * len(once) / MOST_BEAMS)] for k in range(MOST_BEAMS))


def cropped(case: Case) -> tuple[Case, tuple[tuple[int, int], ...]]:
    """The case on the bounding box of its body, and that box, (low, high) for each axis."""
    where = [np.flatnonzero(case.body.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple((int(w[0]), int(w[-1]) + 1) for w in where)
    z, y, x = (slice(low, high) for low, high in box)

    def cut(volume: Volume | None) -> Volume | None:
        return None if volume is None else np.ascontiguousarray(volume[z, y, x])

    origin = case.grid.position_mm(np.array([low for low, _ in box]))
    shape = (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])
    small = replace(
        case,
        grid=Grid(shape, case.grid.spacing_mm, (origin[0], origin[1], origin[2])),
        body=np.ascontiguousarray(case.body[z, y, x]),
        structures={name: np.ascontiguousarray(mask[z, y, x]) for name, mask in case.structures.items()},
        ct_hu=cut(case.ct_hu),
        beam_plate=cut(case.beam_plate),
        angle_plate=cut(case.angle_plate),
        dose_gy=cut(case.dose_gy),
    )
    return small, box


def nearness(distance_mm: _Volume, far_mm: float, deep_mm: float) -> _Volume:
    """From a signed distance, negative inside: 0 far away, 1 at the surface, 1 more for every ``deep_mm`` inside."""
    near: _Volume = np.exp(-np.maximum(distance_mm, 0.0) / far_mm) + np.maximum(-distance_mm, 0.0) / deep_mm
    return near


def _near(mask: Mask, grid: Grid, far_mm: float, deep_mm: float) -> _Volume:
    if not mask.any():
        return np.zeros(mask.shape)
    return nearness(base.signed_distance_mm(mask, grid.spacing_mm), far_mm, deep_mm)


def _ct(ct_hu: _Volume) -> list[_Volume]:
    low, high = SOFT_HU
    return [
        (np.clip(ct_hu, -HU_UNIT, HU_MOST) + HU_UNIT) / HU_UNIT,
        np.clip((ct_hu - low) / (high - low), 0.0, 1.0),
    ]


def _ptv(case: Case) -> list[_Volume]:
    high, middle, low = base.levels(case)
    anywhere = high | middle | low
    spacing = case.grid.spacing_mm
    level = base.relative_prescription(case)
    blurs = [gaussian_filter(level, [mm / s for s in spacing], truncate=3.0) for mm in base.BLUR_MM]
    flat = [0.5, base.SLICE_BLUR_MM / spacing[1], base.SLICE_BLUR_MM / spacing[2]]
    in_slice = np.stack([base.signed_distance_mm(plane, spacing[1:]) for plane in anywhere])
    slices = np.flatnonzero(anywhere.any(axis=(1, 2)))
    z = np.arange(anywhere.shape[0])
    beyond = np.maximum(np.maximum(slices[0] - z, z - slices[-1]), 0) * spacing[0]
    targets = (high, middle, low, high | middle, anywhere)
    return [
        level, *(mask.astype(np.float32) for mask in (high, middle, low)),
        *(_near(mask, case.grid, TARGET_MM, TARGET_DEEP_MM) for mask in targets),
        nearness(in_slice, TARGET_MM, TARGET_DEEP_MM),
        np.broadcast_to(np.exp(-beyond / BEYOND_MM)[:, None, None], anywhere.shape),
        *blurs, gaussian_filter(level, flat, truncate=3.0), *_offsets(high, case.grid),
    ]  # fmt: skip


def _offsets(high: Mask, grid: Grid) -> list[_Volume]:
    """Posterior, lateral (either side) and superior offset from the high target's centroid, in PLACE_MM."""
    z, y, x = (
        np.arange(high.shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)]) - where.mean()
        for axis, where in enumerate(np.nonzero(high))
    )
    mm = (y * grid.spacing_mm[1], np.abs(x) * grid.spacing_mm[2], z * grid.spacing_mm[0])
    return [np.broadcast_to(offset / PLACE_MM, high.shape) for offset in mm]


def _oar(case: Case) -> list[_Volume]:
    empty = np.zeros(case.grid.shape, dtype=bool)
    masks = [case.structures.get(name, empty) for name in OAR_NAMES]
    return [
        *(mask.astype(np.float32) for mask in masks),
        *(_near(mask, case.grid, ORGAN_MM, ORGAN_DEEP_MM) for mask in masks),
    ]


def _body(case: Case) -> list[_Volume]:
    """Mask, depth, and a voxel's place about the middle of the body in its slice and along the axis."""
    body, spacing = case.body, case.grid.spacing_mm
    depth = base._depth_mm(body, spacing) / DEPTH_MM
    planes: Mapping[str, _Volume] = {name: np.zeros(body.shape) for name in ("posterior", "aside", "width")}
    for z, plane in enumerate(body):
        y, x = np.nonzero(plane)
        if y.size:
            planes["posterior"][z] = (np.arange(plane.shape[0])[:, None] - y.mean()) * spacing[1] / PLACE_MM
            planes["aside"][z] = np.abs(np.arange(plane.shape[1])[None] - x.mean()) * spacing[2] / PLACE_MM
            planes["width"][z] = (x.max() - x.min() + 1) * spacing[2] / WIDTH_MM
    height = (np.arange(body.shape[0]) - (body.shape[0] - 1) / 2) * spacing[0] / PLACE_MM
    return [body.astype(np.float32), depth, *planes.values(), np.broadcast_to(height[:, None, None], body.shape)]


def _lights(case: Case) -> list[_Volume]:
    if not case.targets:
        return [np.zeros(case.grid.shape)] * 6
    features = light_features(case, base.relative_prescription(case), base.levels(case)[0])
    volumes = np.zeros((features.shape[1], *case.grid.shape), dtype=np.float32)
    volumes[:, case.body] = features.T
    return list(volumes)
