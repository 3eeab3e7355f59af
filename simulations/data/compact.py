"""OpenKBP's npz form, half64 and full128, made from whole volumes: the recipe that the data set's meta.json states."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.data.csv_patient import STRUCTURES, CsvPatient

Arrays = dict[str, NDArray[Any]]

# Axes, units and array types, as meta.json beside the files says them.
META: dict[str, Any] = {
    "source": "https://github.com/ababier/open-kbp",
    "licence": "MIT (repository LICENSE); images originate from TCIA collections",
    "rois": list(STRUCTURES),
    "index_order": "C; array axes [0,1,2] = [anterior->posterior, patient right->left, superior->inferior];"
    " vox_mm in the same order",
    "ct": "int16 0..4095 (clipped as the organisers recommend); HU is about value-1000; 0 outside the stored body",
    "dose": "uint16 centigray (0.01 Gy)",
    "half64": {
        "ct": "int16[64,64,64] block mean",
        "dose_cgy": "uint16[64,64,64] mean over the possible-dose voxels of the 2x2x2 block",
        "pdm_cover": "uint8[64,64,64] possible-dose voxels per block 0..8; mask = pdm_cover>0",
        "cover": "uint8[10,64,64,64] ROI voxels per block 0..8",
        "masks": "uint8[10,32768] np.packbits; threshold per ROI that best preserves its volume, never empty when the"
        " ROI exists",
        "vox_mm": "float32[3] (twice the native size)",
    },
    "full128": {
        "ct": "int16[128,128,128]",
        "dose_cgy": "uint16[128,128,128]",
        "pdm": "uint8[262144] np.packbits",
        "masks": "uint8[10,262144] np.packbits",
        "vox_mm": "float32[3]",
    },
}


def native_arrays(patient: CsvPatient) -> Arrays:
    """The arrays of a ``full128`` file; ``ct`` is absent where the patient has none."""
    arrays: Arrays = {
        "dose_cgy": np.rint(patient.dose_gy * 100).astype(np.uint16),
        "pdm": np.packbits(patient.body),
        "masks": np.packbits(patient.masks.reshape(len(STRUCTURES), -1), axis=1),
        "vox_mm": patient.voxel_mm.astype(np.float32),
    }
    if patient.ct is not None:
        arrays["ct"] = np.rint(np.clip(patient.ct, 0, 4095)).astype(np.int16)
    return arrays


def half_arrays(patient: CsvPatient) -> Arrays:
    """The arrays of a ``half64`` file, a voxel for each block of 2x2x2; ``ct`` is absent where the patient has none."""
    body = block_sum(patient.body.astype(np.uint8))
    cover = np.stack([block_sum(mask.astype(np.uint8)) for mask in patient.masks])
    dose_gy = block_sum(np.where(patient.body, patient.dose_gy, 0)) / np.maximum(body, 1)
    masks = np.stack([volume_keeping(blocks) for blocks in cover])
    arrays: Arrays = {
        "dose_cgy": np.rint(dose_gy * 100).astype(np.uint16),
        "pdm_cover": body,
        "cover": cover,
        "masks": np.packbits(masks.reshape(len(STRUCTURES), -1), axis=1),
        "vox_mm": (2 * patient.voxel_mm).astype(np.float32),
    }
    if patient.ct is not None:
        arrays["ct"] = np.rint(block_sum(np.clip(patient.ct, 0, 4095)) / 8).astype(np.int16)
    return arrays


def block_sum(volume: NDArray[Any]) -> NDArray[Any]:
    """The sums of blocks of 2x2x2 voxels, of the volume's own type (2y, 2x, 2z) -> (y, x, z)."""
    for axis in range(3):
        even, odd = (volume.take(range(start, volume.shape[axis], 2), axis) for start in (0, 1))
        volume = even + odd
    return volume


def volume_keeping(cover: NDArray[Any]) -> NDArray[np.bool_]:
    """A structure's mask by block: blocks with at least so many of its voxels (0..8) that its volume changes least.

    Of equally good thresholds the lowest is taken. Where the structure has a voxel the mask is not empty.
    """
    voxels = int(cover.sum(dtype=np.int64))
    blocks = {least: int((cover >= least).sum()) for least in range(1, 9)}
    best = min((least for least in blocks if blocks[least]), key=lambda n: abs(8 * blocks[n] - voxels), default=1)
    return np.asarray(cover >= best)
