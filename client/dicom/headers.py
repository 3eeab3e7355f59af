"""What we need to join a file with others: its kind and identifiers, what it refers to, where its image is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

from client.dicom.open import open_dataset
from client.planes.plane import ImagePlane
from shared_model.core.errors import InputError

ENHANCED_CT = "Enhanced CT"
KINDS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": ENHANCED_CT,
    "1.2.840.10008.5.1.4.1.1.481.8": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
}
OTHER = "other"
_ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
# PlanIntent of what is no treatment of a patient (PS3.3 section C.8.8.9). RESEARCH may be one, of phantoms too.
_NO_TREATMENT = ("VERIFICATION", "MACHINE_QA", "SERVICE")

_TAGS = (
    0x00080005,  # SpecificCharacterSet
    0x00080016,  # SOPClassUID
    0x00080018,  # SOPInstanceUID
    0x00080008,  # ImageType
    0x00100020,  # PatientID
    0x0020000D,  # StudyInstanceUID
    0x0020000E,  # SeriesInstanceUID
    0x00200052,  # FrameOfReferenceUID
    0x00185100,  # PatientPosition
    0x00189004,  # ContentQualification
    0x00200032,  # ImagePositionPatient
    0x00200037,  # ImageOrientationPatient
    0x00280010,  # Rows
    0x00280011,  # Columns
    0x00280030,  # PixelSpacing
    0x300E0002,  # ApprovalStatus
    0x300A000A,  # PlanIntent
    0x30040002,  # DoseUnits
    0x30040004,  # DoseType
    0x3004000A,  # DoseSummationType
    0x30060010,  # ReferencedFrameOfReferenceSequence
    0x300C0002,  # ReferencedRTPlanSequence
    0x300C0060,  # ReferencedStructureSetSequence
)
_MOST_UIDS = 100_000


@dataclass(frozen=True, kw_only=True)
class Header:
    """One file. ``refers`` are instances and series that it refers to, ``frames`` its Frames of Reference.

    ``patient`` is the record's own patient id: it is hashed or compared, never shown. ``plane`` is a CT's. ``beams``
    are the beams of a dose (empty: a whole plan). ``research``: the file says that it is not a clinical product.
    ``grid``: it has pixels (a dose may hold a DVH alone). ``unfit`` says why a file of this kind is not used, and what
    to do; ``content`` what kind another file is of.
    """

    path: Path = field(repr=False)
    kind: str
    uid: str = field(repr=False, default="")
    series: str = field(repr=False, default="")
    study: str = field(repr=False, default="")
    patient: str = field(repr=False, default="")
    frames: tuple[str, ...] = field(repr=False, default=())
    refers: tuple[str, ...] = field(repr=False, default=())
    position: str = ""
    plane: ImagePlane | None = None
    units: str = ""
    dose_type: str = ""
    summation: str = ""
    beams: tuple[int, ...] = ()
    research: bool = False
    approval: str = ""
    grid: bool = True
    unfit: str = ""
    content: str = ""


def read_header(path: Path) -> Header:
    """Read the header of one file. DICOM that is not CT, RTSTRUCT, RTPLAN or RTDOSE is of kind ``other``.

    Raises NotDicomError for a file that is not DICOM. Raises InputError, without path or content, for a damaged file or
    one that lacks an identifier or a CT's geometry.
    """
    dataset = open_dataset(path, _TAGS)
    sop_class = text(dataset, "SOPClassUID")
    kind = KINDS.get(sop_class, OTHER)
    if kind == OTHER:
        return Header(path=path, kind=OTHER, content=_content(sop_class))
    uid, series = text(dataset, "SOPInstanceUID"), text(dataset, "SeriesInstanceUID")
    if not uid or not series:
        raise InputError(f"{kind} without SOPInstanceUID or SeriesInstanceUID; export it again")
    return Header(
        path=path,
        kind=kind,
        uid=uid,
        series=series,
        study=text(dataset, "StudyInstanceUID"),
        patient=text(dataset, "PatientID"),
        frames=tuple(sorted(_frames(dataset))),
        refers=tuple(sorted(_references(dataset))),
        position=text(dataset, "PatientPosition"),
        plane=_plane(dataset) if kind == "CT" else None,
        units=text(dataset, "DoseUnits"),
        dose_type=text(dataset, "DoseType"),
        summation=text(dataset, "DoseSummationType"),
        beams=tuple(sorted(_beams(dataset))),
        research=text(dataset, "ContentQualification") == "RESEARCH",
        approval=text(dataset, "ApprovalStatus").upper(),
        grid=value(dataset, "Rows") is not None,
        unfit=_unfit(dataset, kind, sop_class),
    )


def _content(sop_class: str) -> str:
    """The standard's name of another kind of file, such as MR Image Storage."""
    named = UID(sop_class)
    return named.name if named.name != sop_class and named.type == "SOP Class" else "another kind"


def _unfit(dataset: Dataset, kind: str, sop_class: str) -> str:
    """Why a file must not be used as what its kind says, then what to do."""
    if kind == "RTPLAN":
        intent = text(dataset, "PlanIntent").upper()
        if sop_class == _ION_PLAN:
            return "plan: an ion plan (RT Ion Plan Storage), and only photon plans are used; leave it out"
        if text(dataset, "ApprovalStatus").upper() == "REJECTED":
            return "plan: ApprovalStatus is REJECTED; export the plan that was approved"
        if intent in _NO_TREATMENT:
            return f"plan: PlanIntent is {intent}, no treatment; export the treated plan"
    return ""


def value(dataset: Dataset, keyword: str) -> Any:
    """Return an element's value, None if it is absent. Raises InputError naming the attribute if it cannot be decoded.

    pydicom decodes a value when it is first asked for, and a damaged one may raise anything.
    """
    try:
        return dataset.get(keyword)
    except Exception as error:
        raise InputError(f"{keyword}: cannot be decoded ({type(error).__name__}); export it again") from None


def text(dataset: Dataset, keyword: str) -> str:
    """Return a single text value, stripped, at most 128 characters; empty if it is absent or there are several."""
    found = value(dataset, keyword)
    return "" if found is None or isinstance(found, (list, tuple, MultiValue)) else str(found).strip(" \0")[:128]


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """``count`` finite numbers. Raises InputError naming the attribute."""
    try:
        found = value(dataset, keyword)
        values = [float(v) for v in (found if count > 1 else [found])] if found is not None else []
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{keyword}: expected {count} number{'s' * (count > 1)}")
    return tuple(values)


def items(dataset: Dataset, keyword: str) -> Iterable[Dataset]:
    """Return the items of a sequence; none if it is absent or is something else."""
    found = value(dataset, keyword)
    return [item for item in found if isinstance(item, Dataset)] if isinstance(found, (Sequence, list)) else []


def read_plane(dataset: Dataset) -> ImagePlane:
    """The image plane of a CT slice, or of a dose grid's first frame. Raises InputError naming the attribute."""
    position = numbers(dataset, "ImagePositionPatient", 3)
    row, column = np.split(np.array(numbers(dataset, "ImageOrientationPatient", 6)), 2)
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > 0.01 or abs(float(row @ column)) > 0.01:
        raise InputError("ImageOrientationPatient: expected two unit vectors at right angles")
    spacing = numbers(dataset, "PixelSpacing", 2)
    if not all(0.01 <= s <= 50 for s in spacing):
        raise InputError("PixelSpacing: expected 0.01 to 50 mm")
    if np.abs(position).max() > 1e5:
        raise InputError("ImagePositionPatient: expected mm within 100 m")
    rows, columns = (int(numbers(dataset, key, 1)[0]) for key in ("Rows", "Columns"))
    if not (1 <= rows <= 4096 and 1 <= columns <= 4096):
        raise InputError("Rows, Columns: expected 1 to 4096")
    row, column = row / lengths[0], column / lengths[1]
    return ImagePlane(
        position=_triple(position),
        row_direction=_triple(row),
        column_direction=_triple(column),
        spacing=(spacing[0], spacing[1]),
        rows=rows,
        columns=columns,
    )


def _plane(dataset: Dataset) -> ImagePlane | None:
    image_type = value(dataset, "ImageType") or ()
    if "LOCALIZER" in (image_type if not isinstance(image_type, str) else (image_type,)):
        return None
    return read_plane(dataset)


def _triple(values: Any) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


def _frames(dataset: Dataset) -> set[str]:
    found = {text(dataset, "FrameOfReferenceUID")}
    found |= {text(item, "FrameOfReferenceUID") for item in items(dataset, "ReferencedFrameOfReferenceSequence")}
    return found - {""}


def _references(dataset: Dataset) -> set[str]:
    found: set[str] = set()
    for keyword in ("ReferencedRTPlanSequence", "ReferencedStructureSetSequence"):
        found |= {text(item, "ReferencedSOPInstanceUID") for item in items(dataset, keyword)}
    for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for series in items(study, "RTReferencedSeriesSequence"):
                found.add(text(series, "SeriesInstanceUID"))
    if len(found) > _MOST_UIDS:
        raise InputError(f"refers to more than {_MOST_UIDS} others; not read")
    return found - {""}


def _beams(dataset: Dataset) -> set[int]:
    found = set()
    for plan in items(dataset, "ReferencedRTPlanSequence"):
        for group in items(plan, "ReferencedFractionGroupSequence"):
            for beam in items(group, "ReferencedBeamSequence"):
                found.add(int(numbers(beam, "ReferencedBeamNumber", 1)[0]))
    return found
