"""The content of single files: pixels of a CT slice, contours of a structure set, a dose grid. Plain arrays out.

Every function takes a path and either returns what it found, checked, or raises InputError without path or content.
Runs in the reading process (client/dicom/worker.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from client.dicom.headers import ImagePlane, items, numbers, read_plane, text, value
from client.dicom.open import open_dataset
from client.names.records import Points, Roi
from shared_model.core.errors import InputError

MAX_POINTS = 4_000_000
MAX_ROIS = 1000
MAX_DOSE_VOXELS = 2**26
_CONTOUR_DATA = 0x30060050
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


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
        raise InputError("DoseUnits: expected GY; relative dose cannot be used")
    if text(dataset, "DoseType").upper() not in ("PHYSICAL", "EFFECTIVE"):
        raise InputError("DoseType: expected PHYSICAL or EFFECTIVE")
    frames = int(numbers(dataset, "NumberOfFrames", 1)[0]) if value(dataset, "NumberOfFrames") else 1
    _check_pixels(dataset, frames)
    (scaling,) = numbers(dataset, "DoseGridScaling", 1)
    if not 0 < scaling < 1e3:
        raise InputError("DoseGridScaling: expected a positive number of Gy")
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
        return np.asarray(pixel_array(dataset))
    except (MemoryError, RecursionError) as error:
        raise InputError(f"PixelData: takes too much memory ({type(error).__name__})") from None
    except Exception as error:  # a decoder's text may quote a record
        raise InputError(f"PixelData: cannot be decoded ({type(error).__name__})") from None


def read_rois(path: Path) -> tuple[Roi, ...]:
    """All structures of a structure set, also empty ones, joined by ROI number. Raises InputError where one is bad."""
    dataset = open_dataset(path)
    named = {_number(item, "ROINumber"): text(item, "ROIName") for item in items(dataset, "StructureSetROISequence")}
    kinds = {
        _number(item, "ReferencedROINumber"): text(item, "RTROIInterpretedType").upper()
        for item in items(dataset, "RTROIObservationsSequence")
    }
    if len(named) > MAX_ROIS:
        raise InputError(f"StructureSetROISequence: {len(named)} structures; expected at most {MAX_ROIS}")
    drawn: dict[int, list[Any]] = {number: [[], 0] for number in named}
    points = 0
    for item in items(dataset, "ROIContourSequence"):
        number = _number(item, "ReferencedROINumber")
        if number not in drawn:
            raise InputError("ROIContourSequence: contours of a structure that StructureSetROISequence does not name")
        closed, others = _contours(item)
        drawn[number][0] += closed
        drawn[number][1] += others
        points += sum(map(len, closed))
        if points > MAX_POINTS:
            raise InputError(f"ROIContourSequence: more than {MAX_POINTS} points; not read")
    return tuple(
        Roi(
            number=number,
            name=named[number],
            kind=kinds.get(number, ""),
            points_mm=np.concatenate(contours) if contours else np.zeros((0, 3)),
            counts=np.array([len(c) for c in contours], dtype=np.int64),
            other_shapes=others,
        )
        for number, (contours, others) in drawn.items()
    )


def _number(item: Dataset, keyword: str) -> int:
    return int(numbers(item, keyword, 1)[0])


def _contours(roi: Dataset) -> tuple[list[Points], int]:
    """Closed contours of at least three points, and how many other shapes there are."""
    closed, others = [], 0
    for item in items(roi, "ContourSequence"):
        if text(item, "ContourGeometricType").upper() not in _CLOSED:
            others += 1
            continue
        points = _points(item)
        if len(points) >= 3:
            closed.append(points)
        else:
            others += 1
    return closed, others


def _decimals(text: bytes) -> Points:
    """Numbers parted by backslashes."""
    if not text:
        return np.zeros(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            flat = np.fromstring(text, dtype=np.float64, sep="\\")  # stops at the first text that is not a number
        if len(flat) == text.count(b"\\") + 1:
            return flat
        return np.array(text.split(b"\\"), dtype=np.float64)  # slower, and allows spaces
    except ValueError:
        raise InputError("ContourData: holds something that is not a number") from None


def _points(item: Dataset) -> Points:
    """(n, 3) of ContourData, parsed from its text at once: pydicom makes an object of every number."""
    raw = item.get_item(_CONTOUR_DATA) if _CONTOUR_DATA in item else None
    content = b"" if raw is None or raw.value is None else raw.value
    if not isinstance(content, bytes):
        raise InputError("ContourData: expected decimal numbers in text")
    flat = _decimals(content.strip(b" \0"))
    declared = value(item, "NumberOfContourPoints") is not None
    if flat.size % 3 or (declared and int(numbers(item, "NumberOfContourPoints", 1)[0]) * 3 != flat.size):
        raise InputError("ContourData: its length is not NumberOfContourPoints times three; export it again")
    if not np.isfinite(flat).all() or (flat.size and np.abs(flat).max() > 1e5):
        raise InputError("ContourData: expected finite numbers in mm")
    return flat.reshape(-1, 3)
