"""The pixels of single files: a CT slice, a dose grid. Plain arrays out.

Every function takes a path and either returns what it found, checked, or raises InputError without path or content.
Runs in the reading process (client/dicom/worker.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from client.dicom.headers import numbers, read_plane, text, value
from client.dicom.open import open_dataset, with_syntax
from client.planes.plane import ImagePlane
from shared_model.core.errors import InputError

MAX_DOSE_VOXELS = 2**26


@dataclass(frozen=True, kw_only=True)
class DoseGrid:
    """A dose as stored: ``dose_gy`` (frames, rows, columns), the first frame's plane, and each frame's offset in mm
    along the normal of the plane."""

    plane: ImagePlane
    offsets_mm: NDArray[np.float64]
    dose_gy: NDArray[np.float32]


def read_ct_slice(path: Path) -> NDArray[np.float32]:
    """Hounsfield units of one slice, (rows, columns)."""
    dataset = open_dataset(path, pixels=True)
    _check_pixels(dataset, frames=1)
    if text(dataset, "RescaleType").upper() not in ("", "HU"):  # electron density, unspecified units
        raise InputError("RescaleType: expected HU; export the CT in Hounsfield units")
    stored = _pixels(dataset)
    slope, intercept = (numbers(dataset, key, 1)[0] for key in ("RescaleSlope", "RescaleIntercept"))
    if stored.ndim != 2:
        raise InputError("PixelData: expected one plane of single values")
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not np.isfinite(hu).all() or np.abs(hu).max() > 1e6:
        raise InputError("RescaleSlope, RescaleIntercept: give no Hounsfield units")
    return hu


def read_dose_grid(path: Path) -> DoseGrid:
    """A dose grid in Gy. Raises InputError for relative dose, errors, or a grid that does not fit its pixels."""
    dataset = open_dataset(path, pixels=True)
    plane = read_plane(dataset)
    if text(dataset, "DoseUnits").upper() != "GY":
        raise InputError("DoseUnits: expected GY, and relative dose is none; export the plan's dose in Gy")
    if text(dataset, "DoseType").upper() not in ("PHYSICAL", "EFFECTIVE"):
        raise InputError("DoseType: expected PHYSICAL or EFFECTIVE; export the plan's dose, no difference of doses")
    frames = int(numbers(dataset, "NumberOfFrames", 1)[0]) if value(dataset, "NumberOfFrames") else 1
    _check_pixels(dataset, frames)
    (scaling,) = numbers(dataset, "DoseGridScaling", 1)
    if not 0 < scaling < 1e3:
        raise InputError("DoseGridScaling: expected a positive number of Gy; calculate the dose before its export")
    offsets = _offsets(dataset, frames, plane)
    stored = _pixels(dataset).reshape(-1, plane.rows, plane.columns)
    if len(stored) != frames:
        raise InputError("PixelData: its number of frames is not NumberOfFrames")
    return DoseGrid(plane=plane, offsets_mm=offsets, dose_gy=stored.astype(np.float32) * np.float32(scaling))


def _offsets(dataset: Dataset, frames: int, plane: ImagePlane) -> NDArray[np.float64]:
    """Offset of each frame along the normal, from the first (PS3.3 section C.8.8.3.2)."""
    if frames == 1:
        return np.zeros(1)
    offsets = np.array(numbers(dataset, "GridFrameOffsetVector", frames))
    if offsets[0] != 0:
        # The other form of the standard: patient coordinates along an axial image's z; the first is the position's.
        normal = np.cross(plane.row_direction, plane.column_direction)
        if abs(offsets[0] - plane.position[2]) > 0.01 or abs(abs(normal[2]) - 1) > 1e-4:
            raise InputError("GridFrameOffsetVector: does not begin with 0, nor with the position of an axial grid")
        offsets = (offsets - offsets[0]) * np.sign(normal[2])
    steps = np.diff(offsets)
    if not (np.all(steps > 0) or np.all(steps < 0)) or np.abs(offsets).max() > 5000:
        raise InputError("GridFrameOffsetVector: expected offsets in order, none twice, in mm")
    return offsets


def _check_pixels(dataset: Dataset, frames: int) -> None:
    """Before any memory is taken, refuse more pixels than a patient has, and images that are not single-valued."""
    rows, columns, bits, samples = (
        int(numbers(dataset, key, 1)[0]) for key in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")
    )
    if samples != 1 or bits not in (8, 16, 32) or min(rows, columns, frames) < 1:
        raise InputError("SamplesPerPixel, BitsAllocated: expected one value a pixel in 8, 16 or 32 bits")
    if rows * columns * frames > MAX_DOSE_VOXELS or "PixelData" not in dataset:
        raise InputError(f"PixelData: absent, or more than {MAX_DOSE_VOXELS} values claimed")
    if value(dataset, "NumberOfFrames") and int(numbers(dataset, "NumberOfFrames", 1)[0]) != frames:
        raise InputError(f"NumberOfFrames: expected {frames}")
    syntax = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    compressed = bool(syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed)
    if not compressed and len(value(dataset, "PixelData") or b"") < rows * columns * frames * bits // 8:
        raise InputError("PixelData: holds fewer values than Rows, Columns and NumberOfFrames say; export it again")


def _pixels(dataset: Dataset) -> NDArray[Any]:
    try:
        return np.asarray(pixel_array(with_syntax(dataset)))
    except (MemoryError, RecursionError) as error:
        raise InputError(f"PixelData: takes too much memory ({type(error).__name__})") from None
    except Exception as error:  # a decoder's text may quote a record
        raise InputError(f"PixelData: cannot be decoded ({type(error).__name__})") from None
