"""Physics features of each voxel of a Case: what targets and coplanar beams tell about dose without a network.

They follow the gradient boosting baseline of the OpenKBP literature: distances to targets and organs, the blurred
prescription map (in three dimensions, and in the slice, where coplanar beams spread it), and depth below the skin. Two
things make them fit any site. Doses are in units of the highest prescription, so that plans of 70 Gy and 60 Gy share
coefficients. Left and right enter only in symmetric forms, so that mirroring a case mirrors its features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from shared_model.patient.case import Case, Mask
from shared_model.patient.geometry import Grid

Features = NDArray[np.float16]
_Volume = NDArray[np.floating]

NAMES: tuple[str, ...] = (
    "high_mm", "middle_mm", "low_mm", "high_or_middle_mm", "target_mm", "beyond_mm",
    "blur6", "blur15", "blur30", "blur60", "slice_blur", "depth_mm",
    "posterior_mm", "lateral_mm", "superior_mm", "ct_khu", "beam",
    "slice_mm", "cord_mm", "parotid_mm", "brainstem_mm", "high_lcc", "middle_lcc", "low_lcc",
)  # fmt: skip

# A target's level is its prescription over the highest one. OpenKBP's 70, 63 and 56 Gy are 1, 0.9 and 0.8.
MIDDLE_LEVELS = (0.85, 0.95)
INSIDE_MM, FAR_MM, ORGAN_FAR_MM = -60.0, 200.0, 40.0
BLUR_MM = (6.0, 15.0, 30.0, 60.0)
SLICE_BLUR_MM = 30.0
_HALF_SLICE = 0.5  # voxels: the blur along the axis
# An absent CT counts as soft tissue.
TISSUE_HU = 0.0
# Features are computed in the body's bounding box plus this margin, in voxels, so that distances include the skin.
_MARGIN = 1


def highest_gy(case: Case) -> float:
    """The highest prescription in Gy, which is the unit of the base's dose. 0 if there are no targets."""
    return max((case.prescriptions_gy[name] for name in case.targets if case.structures[name].any()), default=0.0)


def physics_features(case: Case) -> Features:
    """Features (n, 24), columns NAMES, of the body's n voxels in C order. The Case's dose is not used.

    An absent structure counts as far away, an absent CT as soft tissue, and an absent beam plate as the targets' own
    shadow in their slices. Features are in half precision (0.13 mm at 200 mm), so that stored and new ones are equal.
    """
    box = _box(case)
    spacing = case.grid.spacing_mm
    body = case.body[box]
    high, middle, low = (mask[box] for mask in levels(case))
    anywhere = high | middle | low
    map_zyx = relative_prescription(case)[box]
    blurred = [gaussian_filter(map_zyx, _sigma(mm, spacing), truncate=3.0) for mm in BLUR_MM]
    in_slice = gaussian_filter(
        map_zyx, [_HALF_SLICE, SLICE_BLUR_MM / spacing[1], SLICE_BLUR_MM / spacing[2]], truncate=3.0
    )
    masks = [high, middle, low, high | middle, anywhere]
    columns: list[_Volume] = [signed_distance_mm(mask, spacing) for mask in masks]
    columns += [_beyond_mm(anywhere, spacing[0]), *blurred, in_slice, _depth_mm(body, spacing)]
    columns += _coordinates_mm(case.grid, high)
    columns += [np.full(body.shape, TISSUE_HU) if case.ct_hu is None else case.ct_hu[box] / 1000.0]
    columns += [in_slice if case.beam_plate is None else case.beam_plate[box]]
    columns += [_in_slice_mm(anywhere, spacing), *_organs_mm(case, box)]
    columns += [np.full(body.shape, np.log1p(mask.sum() * case.grid.voxel_cc)) for mask in (high, middle, low)]
    return np.stack([column[body] for column in columns], axis=1).astype(np.float16)


def signed_distance_mm(mask_zyx: Mask, spacing_mm: Sequence[float]) -> _Volume:
    """Distance to the mask's surface, negative inside, cut to INSIDE_MM..FAR_MM. FAR_MM everywhere if it is empty."""
    if not mask_zyx.any():
        return np.full(mask_zyx.shape, FAR_MM)
    outside = distance_transform_edt(~mask_zyx, sampling=spacing_mm)
    inside = distance_transform_edt(mask_zyx, sampling=spacing_mm)
    return np.clip(outside - inside, INSIDE_MM, FAR_MM)


def _box(case: Case) -> tuple[slice, ...]:
    """The bounding box of body and targets, with a margin."""
    everything = case.body.copy()
    for name in case.targets:
        everything |= case.structures[name]
    where = [np.flatnonzero(everything.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(max(0, int(w[0]) - _MARGIN), int(w[-1]) + 1 + _MARGIN) for w in where)


def levels(case: Case) -> tuple[Mask, Mask, Mask]:
    """Masks (z, y, x) of the targets of the high, the middle and the low level, on the case's grid."""
    masks = [np.zeros(case.grid.shape, dtype=bool) for _ in range(3)]
    highest = highest_gy(case)
    for name in case.targets:
        if case.structures[name].any():
            level = case.prescriptions_gy[name] / highest
            masks[0 if level >= MIDDLE_LEVELS[1] else 1 if level >= MIDDLE_LEVELS[0] else 2] |= case.structures[name]
    return masks[0], masks[1], masks[2]


def relative_prescription(case: Case) -> _Volume:
    """Prescription divided by the highest one, (z, y, x). The highest counts where targets overlap; 0 outside them."""
    highest = highest_gy(case)
    return case.ptv_gy() / np.float32(highest) if highest else np.zeros(case.grid.shape, dtype=np.float32)


def _sigma(mm: float, spacing_mm: Sequence[float]) -> list[float]:
    return [mm / s for s in spacing_mm]


def _beyond_mm(anywhere_zyx: Mask, slice_mm: float) -> _Volume:
    """How far each slice lies beyond the last slice with a target. Coplanar beams leave only scatter there."""
    slices = np.flatnonzero(anywhere_zyx.any(axis=(1, 2)))
    if not slices.size:
        return np.full(anywhere_zyx.shape, FAR_MM)
    z = np.arange(anywhere_zyx.shape[0])
    beyond = np.maximum(np.maximum(slices[0] - z, z - slices[-1]), 0) * slice_mm
    return np.broadcast_to(beyond[:, None, None], anywhere_zyx.shape)


def _in_slice_mm(anywhere_zyx: Mask, spacing_mm: Sequence[float]) -> _Volume:
    """Signed distance to the targets within each slice. FAR_MM in slices without a target."""
    return np.stack([signed_distance_mm(plane, spacing_mm[1:]) for plane in anywhere_zyx])


def _depth_mm(body_zyx: Mask, spacing_mm: Sequence[float]) -> _Volume:
    padded = distance_transform_edt(np.pad(body_zyx, 1), sampling=spacing_mm)
    return np.asarray(padded[1:-1, 1:-1, 1:-1])


def _coordinates_mm(grid: Grid, high_zyx: Mask) -> list[_Volume]:
    """Posterior, lateral (either side) and superior distance from the high target's centroid. 0 if there is none."""
    if not high_zyx.any():
        return [np.zeros(high_zyx.shape)] * 3
    offsets = []
    for axis, where in enumerate(np.nonzero(high_zyx)):
        mm = (np.arange(high_zyx.shape[axis]) - where.mean()) * grid.spacing_mm[axis]
        shape = [-1 if a == axis else 1 for a in range(3)]
        offsets.append(np.broadcast_to(mm.reshape(shape), high_zyx.shape))
    return [offsets[1], np.abs(offsets[2]), offsets[0]]


def _organs_mm(case: Case, box: tuple[slice, ...]) -> list[_Volume]:
    """Signed distances to the cord, the nearer parotid and the brainstem, at most ORGAN_FAR_MM."""

    def distance(name: str) -> _Volume:
        mask = case.structures.get(name)
        found = np.zeros(case.body[box].shape, dtype=bool) if mask is None else mask[box]
        return np.minimum(signed_distance_mm(found, case.grid.spacing_mm), ORGAN_FAR_MM)

    parotid = np.minimum(distance("Parotid_L"), distance("Parotid_R"))
    return [distance("SpinalCord"), parotid, distance("Brainstem")]
