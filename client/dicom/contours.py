"""The contours of a structure set, structure by structure. Plain arrays out; runs in the reading process.

One bad structure does not lose the others: it comes without contours, and ``fault`` says why. What is read as a closed
contour: CLOSED_PLANAR, CLOSEDPLANAR_XOR, and INTERPOLATED_PLANAR, which a workstation draws between those of a person.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from client.dicom.headers import items, numbers, text, value
from client.dicom.open import open_dataset
from client.names.records import Points, Roi
from shared_model.core.errors import InputError

MAX_POINTS = 4_000_000
MAX_ROIS = 1000
_CONTOUR_DATA = 0x30060050
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR", "INTERPOLATED_PLANAR")


@dataclass
class _Drawn:
    """The contours of one number: closed ones, how many are points or too short, and how many are open or unknown."""

    closed: list[Points] = field(default_factory=list)
    points: int = 0
    open: int = 0
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class StructureSet:
    """The structures, also empty ones, in the file's order; ``unlisted`` counts drawings of numbers without a name."""

    rois: tuple[Roi, ...]
    unlisted: int = 0


def read_structures(path: Path) -> StructureSet:
    """All structures of a structure set, joined by ROI number. Raises InputError for more than a patient has."""
    dataset = open_dataset(path)
    listed = [(_number(item, "ROINumber"), item) for item in items(dataset, "StructureSetROISequence")]
    if len(listed) > MAX_ROIS:
        raise InputError(f"StructureSetROISequence: {len(listed)} structures; expected at most {MAX_ROIS}")
    often = Counter(number for number, _ in listed)
    kinds = {
        _number(item, "ReferencedROINumber"): text(item, "RTROIInterpretedType").upper()
        for item in items(dataset, "RTROIObservationsSequence")
    }
    drawn, unlisted = _drawn(dataset, often)
    rois = [_roi(number, item, kinds.get(number, ""), drawn[number], often[number] > 1) for number, item in listed]
    return StructureSet(rois=tuple(rois), unlisted=unlisted)


def contour_images(path: Path) -> tuple[str, ...]:
    """The instances that the contours were drawn on (ContourImageSequence of each contour), or else those that the
    structure set lists."""
    dataset = open_dataset(path)
    contours = (c for roi in items(dataset, "ROIContourSequence") for c in items(roi, "ContourSequence"))
    found = {text(image, "ReferencedSOPInstanceUID") for c in contours for image in items(c, "ContourImageSequence")}
    if not found - {""}:
        for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
            for study in items(frame, "RTReferencedStudySequence"):
                for series in items(study, "RTReferencedSeriesSequence"):
                    found |= {text(i, "ReferencedSOPInstanceUID") for i in items(series, "ContourImageSequence")}
    return tuple(sorted(found - {""}))


def _drawn(dataset: Dataset, often: Counter[int]) -> tuple[dict[int, _Drawn], int]:
    found = {number: _Drawn() for number in often}
    points = unlisted = 0
    for item in items(dataset, "ROIContourSequence"):
        number = _number(item, "ReferencedROINumber")
        if number not in found:
            unlisted += 1
            continue
        try:
            _add_contours(found[number], item)
        except InputError as error:
            found[number].fault = str(error)
        points += sum(map(len, found[number].closed))
        if points > MAX_POINTS:
            raise InputError(f"ROIContourSequence: more than {MAX_POINTS} points; not read")
    return found, unlisted


def _roi(number: int, item: Dataset, kind: str, drawn: _Drawn, shared: bool) -> Roi:
    closed = [] if drawn.fault or shared else drawn.closed
    return Roi(
        number=number,
        name=text(item, "ROIName"),
        kind=kind,
        points_mm=np.concatenate(closed) if closed else np.zeros((0, 3)),
        counts=np.array([len(c) for c in closed], dtype=np.int64),
        other_shapes=drawn.points + drawn.open,
        open_shapes=drawn.open,
        frame=text(item, "ReferencedFrameOfReferenceUID"),
        shared_number=shared,
        fault=drawn.fault,
    )


def _number(item: Dataset, keyword: str) -> int:
    return int(numbers(item, keyword, 1)[0])


def _add_contours(to: _Drawn, roi: Dataset) -> None:
    """Add closed contours of at least three points, and count the others."""
    for item in items(roi, "ContourSequence"):
        kind = text(item, "ContourGeometricType").upper()
        if kind == "POINT":
            to.points += 1
        elif kind not in _CLOSED:
            to.open += 1
        elif len(points := _points(item)) >= 3:
            to.closed.append(points)
        else:
            to.points += 1


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
        raise InputError("ContourData: its length is not NumberOfContourPoints times three")
    if not np.isfinite(flat).all() or (flat.size and np.abs(flat).max() > 1e5):
        raise InputError("ContourData: expected finite numbers in mm")
    return flat.reshape(-1, 3)
