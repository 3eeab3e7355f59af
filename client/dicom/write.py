"""A predicted dose as DICOM RT Dose (PS3.3 A.18), for the planning system or archive that the study came from.

Sixteen-bit voxels times DoseGridScaling: steps of about 1 mGy, and validators stop at 32 bits. Every file says in four
places that it is research: series description, dose comment, derivation and ContentQualification.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTDoseStorage, RTPlanStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from client.dicom.plan import COPIED, COPIED_IF_THERE
from shared_model.core.errors import InputError
from shared_model.core.files import whole_file
from shared_model.core.software import versions
from shared_model.patient.geometry import Grid

LABEL = "RESEARCH ONLY"
MANUFACTURER = "FedKT3D"
SERIES_NUMBER = 9000
_STEPS = 2**16 - 1


DESCRIPTION = f"{LABEL}: predicted dose"
COMMENT = f"{LABEL}: dose predicted by a model, no plan"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a dose belongs: any object of the study (patient and study), its frame of reference and, perhaps, its plan.

    Without a ``plan`` the dose refers to an overview of one (PS3.3 C.8.8.3, PLAN_OVERVIEW); some systems want a plan.
    """

    study: Dataset
    frame_of_reference: str
    plan: Dataset | None = None


def write_dose(path: Path, volume_gy: NDArray[np.floating], grid: Grid, origin: Origin, adapter: str = "") -> None:
    """Write ``volume_gy`` (z, y, x) >= 0 on ``grid`` as one RTDOSE file, whole or not at all.

    ``adapter`` names what made it. Raises InputError where the volume is not on the grid, not finite or negative, where
    the source lacks an identifier, or where the folder cannot be written to.
    """
    dataset = dose_dataset(volume_gy, grid, origin, adapter)
    with whole_file(path) as stream:
        dataset.save_as(stream, enforce_file_format=True)


def dose_dataset(volume_gy: NDArray[np.floating], grid: Grid, origin: Origin, adapter: str = "") -> FileDataset:
    """The RTDOSE dataset of ``write_dose``. Raises InputError as there."""
    _check(volume_gy, grid, origin)
    dataset = _new_dataset()
    for keyword in COPIED:
        setattr(dataset, keyword, origin.study.get(keyword, ""))
    for keyword in COPIED_IF_THERE:
        if keyword in origin.study:
            setattr(dataset, keyword, origin.study[keyword].value)
    dataset.StudyInstanceUID = origin.study.StudyInstanceUID
    dataset.FrameOfReferenceUID = origin.frame_of_reference
    _describe(dataset, adapter)
    _place(dataset, grid)
    _fill(dataset, np.asarray(volume_gy, dtype=np.float64))
    _refer(dataset, origin)
    return dataset


def _check(volume_gy: NDArray[np.floating], grid: Grid, origin: Origin) -> None:
    if volume_gy.shape != grid.shape:
        raise InputError(f"RTDOSE: dose has shape {volume_gy.shape}, the grid {grid.shape}")
    if grid.shape[0] < 2:  # GridFrameOffsetVector has two values or more (PS3.6)
        raise InputError("RTDOSE: the grid has one slice; expected at least two")
    if not np.isfinite(volume_gy).all() or volume_gy.min() < 0:
        raise InputError("RTDOSE: dose is negative or not finite somewhere; expected Gy >= 0")
    if not origin.study.get("StudyInstanceUID") or not origin.frame_of_reference:
        raise InputError("RTDOSE: the study names no StudyInstanceUID or FrameOfReferenceUID: the dose has no place")
    if origin.plan is not None and not origin.plan.get("SOPInstanceUID"):
        raise InputError("RTDOSE: the plan names no SOPInstanceUID; expected an RTPLAN object")


def _new_dataset() -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTDoseStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTDoseStorage, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    return dataset


def _describe(dataset: Dataset, adapter: str) -> None:
    """Series, equipment, content and the research label."""
    now = datetime.now()
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "RTDOSE", SERIES_NUMBER, 1
    dataset.SeriesDescription, dataset.OperatorsName = DESCRIPTION, ""
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, "client predict"
    dataset.SoftwareVersions = [versions()["fedkt3d"], *([f"adapter {adapter[:40]}"] if adapter else [])]
    for prefix in ("InstanceCreation", "Content"):
        setattr(dataset, f"{prefix}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{prefix}Time", now.strftime("%H%M%S"))
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = COMMENT
    dataset.ContentQualification = "RESEARCH"
    dataset.DoseUnits, dataset.DoseType, dataset.DoseComment = "GY", "PHYSICAL", COMMENT


def _place(dataset: Dataset, grid: Grid) -> None:
    """Image plane and frames (PS3.3 C.7.6.2, C.8.8.3.2): our grid is axis-aligned LPS, so offsets run along +z."""
    (nz, ny, nx), (dz, dy, dx), (z, y, x) = grid.shape, grid.spacing_mm, grid.origin_mm
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = _numbers(x, y, z)
    dataset.ImageOrientationPatient = _numbers(1, 0, 0, 0, 1, 0)
    dataset.PixelSpacing, dataset.SliceThickness = _numbers(dy, dx), _numbers(dz)[0]
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = nz, ny, nx
    dataset.FrameIncrementPointer = 0x3004000C
    dataset.GridFrameOffsetVector = _numbers(*(k * dz for k in range(nz)))


def _fill(dataset: Dataset, volume_gy: NDArray[np.float64]) -> None:
    scaling = format_number_as_ds(max(float(volume_gy.max()), 1e-3) / _STEPS)
    stored = np.minimum(np.rint(volume_gy / float(scaling)), _STEPS).astype("<u2")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.DoseGridScaling = scaling
    content = stored.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)


def _refer(dataset: Dataset, origin: Origin) -> None:
    if origin.plan is not None:
        dataset.DoseSummationType = "PLAN"
        plan = Dataset()
        plan.ReferencedSOPClassUID = origin.plan.get("SOPClassUID", RTPlanStorage)
        plan.ReferencedSOPInstanceUID = origin.plan.SOPInstanceUID
        dataset.ReferencedRTPlanSequence = [plan]
        return
    dataset.DoseSummationType = "PLAN_OVERVIEW"
    overview = Dataset()
    overview.PlanOverviewIndex, overview.RTPlanLabel = 1, LABEL
    dataset.PlanOverviewSequence = [overview]


def _numbers(*values: float) -> list[str]:
    """Return decimal strings of at most 16 characters; pydicom does not check the length (PS3.5 6.2, DS)."""
    return [format_number_as_ds(float(value)) for value in values]
