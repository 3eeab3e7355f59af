"""Reader for OpenKBP (Babier et al. 2021) in its compact npz form: one file per patient -> Case.

OpenKBP's axes are (anterior->posterior, right->left, superior->inferior), that is (y, x, -z). Its plans all have nine
equidistant coplanar beams, so the beam and angle plates can be drawn although the data set holds no plans.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.data.npz import Array, read_arrays
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import target_name
from shared_model.patient.case import Case, Mask
from shared_model.patient.geometry import Grid
from shared_model.patient.plates import angle_plate, beam_plate, target_centroid_mm

# Order of the structures in ``masks`` (the data set's meta.json, "rois").
_ORGANS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
_LEVELS_GY = (56.0, 63.0, 70.0)
_STRUCTURES = (*_ORGANS, *(target_name(level) for level in _LEVELS_GY))

GANTRY_DEG = tuple(float(angle) for angle in range(0, 360, 40))

# Stored CT is HU + 1000, clipped to 0..4095.
_CT_OFFSET = 1000
_CGY_PER_GY = 100.0


def to_lps(volume_yxs: Array) -> Array:
    """(y, x, -z) -> (z, y, x) on the last three axes, contiguous."""
    moved = np.moveaxis(volume_yxs, -1, -3)
    return np.ascontiguousarray(np.flip(moved, axis=-3))


def _grid(arrays: dict[str, Array], path: Path) -> Grid:
    vox_mm = arrays["vox_mm"]
    shape = arrays["dose_cgy"].shape
    if vox_mm.shape != (3,) or len(shape) != 3:
        raise InputError(
            f"{path}: expected a 3D 'dose_cgy' and three numbers in 'vox_mm', found {shape} and {vox_mm.shape}"
        )
    y_mm, x_mm, z_mm = (float(v) for v in vox_mm)
    try:
        return Grid((shape[2], shape[0], shape[1]), (z_mm, y_mm, x_mm))
    except InputError as error:
        raise InputError(f"{path}: 'vox_mm': {error}") from None


def _unpack(bits: Array, key: str, shape_yxs: tuple[int, ...], path: Path) -> Mask:
    """Packed bits (..., voxels / 8) -> masks (..., z, y, x)."""
    voxels = int(np.prod(shape_yxs))
    packed = (voxels + 7) // 8
    if bits.dtype != np.uint8 or bits.shape[-1:] != (packed,):
        raise InputError(
            f"{path}: masks {key!r} ({bits.dtype}, {bits.shape}) lie outside the grid {shape_yxs}; "
            f"expected {packed} packed bytes each"
        )
    masks = np.unpackbits(bits, axis=-1, count=voxels).reshape(*bits.shape[:-1], *shape_yxs)
    return to_lps(masks).astype(bool)


def _same_shape(arrays: dict[str, Array], key: str, path: Path) -> Array:
    shape = arrays["dose_cgy"].shape
    if arrays[key].shape != shape:
        raise InputError(f"{path}: {key!r} has shape {arrays[key].shape}, 'dose_cgy' {shape}")
    return to_lps(arrays[key])


def _structures(masks: Mask) -> tuple[dict[str, Mask], dict[str, float]]:
    """Return the structures that are present, by TG-263 name, and the prescriptions of their targets."""
    structures = {name: masks[index] for index, name in enumerate(_STRUCTURES) if masks[index].any()}
    levels = {target_name(level): level for level in _LEVELS_GY if target_name(level) in structures}
    return structures, levels


def read_openkbp(path: Path, case_id: str) -> Case:
    """One patient from a ``half64`` or ``full128`` file, with all seven modalities, or without CT if the file has none.

    ``body`` is the possible-dose mask. The isocentre is the centroid of the highest-dose target. The beam plate is the
    shadow of all targets, weighted by prescription, since every beam treats them all: its correlation with dose in the
    body is 0.89, against 0.87 unweighted. Raises InputError naming the file and what is wrong with it.
    """
    arrays = read_arrays(path, ("dose_cgy", "masks", "vox_mm"), optional=("ct", "pdm_cover", "pdm"))
    grid = _grid(arrays, path)
    shape_yxs = arrays["dose_cgy"].shape
    if "pdm_cover" in arrays:
        body = _same_shape(arrays, "pdm_cover", path) > 0
    elif "pdm" in arrays:
        body = _unpack(arrays["pdm"], "pdm", shape_yxs, path)
    else:
        raise InputError(f"{path}: missing array 'pdm_cover' (half64) or 'pdm' (full128)")
    rows = arrays["masks"].shape[:-1]
    if rows != (len(_STRUCTURES),):
        found = "x".join(map(str, rows)) or "no"
        raise InputError(f"{path}: 'masks' holds {found} structures, expected {len(_STRUCTURES)}")
    masks = _unpack(arrays["masks"], "masks", shape_yxs, path)
    structures, levels = _structures(masks)
    if not levels:
        raise InputError(f"{path}: no target; expected at least one of {', '.join(_STRUCTURES[-3:])}")
    isocentre_mm = target_centroid_mm(structures[max(levels, key=lambda name: levels[name])], grid)
    highest_gy = max(levels.values())
    targets = np.max([structures[name] * np.float32(levels[name] / highest_gy) for name in levels], axis=0)
    ct_hu = _same_shape(arrays, "ct", path).astype(np.float32) - _CT_OFFSET if "ct" in arrays else None
    try:
        return Case(
            case_id=case_id,
            grid=grid,
            body=body,
            structures=structures,
            prescriptions_gy=levels,
            ct_hu=ct_hu,
            beam_plate=beam_plate(targets, grid, isocentre_mm, GANTRY_DEG),
            angle_plate=angle_plate(grid, isocentre_mm, GANTRY_DEG),
            dose_gy=_same_shape(arrays, "dose_cgy", path).astype(np.float32) / _CGY_PER_GY,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
