"""DICOM files of a phantom patient, written with pydicom: CT slices, a structure set, a plan, a dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from simulations.phantom.planes import Array, Planes

_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: what ReferencedStudy items of old name
_CT_INTERCEPT = -1024


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A made-up patient and the UIDs of their study. All follow from ``seed``, so one seed gives the same files."""

    name: str
    patient_id: str
    seed: str

    @classmethod
    def of_phantom(cls, seed: int, index: int) -> Identity:
        """Patient number ``index`` of the hospital with ``seed``."""
        return cls(name=f"Phantom^Patient {index}", patient_id=f"PHANTOM-{seed}-{index:04d}", seed=f"{seed}/{index}")

    def uid(self, of: str) -> UID:
        """The UID of one of the study's objects."""
        return generate_uid(entropy_srcs=["fedkt3d phantom", self.seed, of])


def _new(sop_class: UID, modality: str, uid: UID, identity: Identity) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = sop_class, uid, modality
    made.PatientName, made.PatientID = identity.name, identity.patient_id
    made.PatientBirthDate, made.PatientSex = "19700101", "O"
    made.StudyInstanceUID, made.SeriesInstanceUID = identity.uid("study"), identity.uid(f"series {modality}")
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20260101", "120000", "1", ""
    made.ReferringPhysicianName, made.OperatorsName, made.Manufacturer = "", "", "FedKT3D phantom"
    made.SeriesNumber, made.InstanceNumber = 1, 1
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = identity.uid("frame"), ""
    return made


def _numbers(values: Sequence[float] | Array) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _place(made: Dataset, planes: Planes, frame: int) -> None:
    made.ImagePositionPatient = _numbers(planes.positions[frame])
    made.ImageOrientationPatient = _numbers(np.concatenate([planes.row, planes.column]))
    made.PixelSpacing = _numbers(planes.spacing)
    made.Rows, made.Columns = planes.rows, planes.columns
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"


def _save(made: FileDataset, path: Path) -> None:
    made.save_as(path, enforce_file_format=True)


def _refer(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def write_ct(folder: Path, hu: Array, planes: Planes, position: str, identity: Identity) -> None:
    """Write one file for each slice. The file order differs from the slices' order in the patient."""
    count = len(hu)
    for k, plane in enumerate(hu):
        made = _new(CTImageStorage, "CT", identity.uid(f"ct {k}"), identity)
        made.ImageType, made.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], position
        made.KVP, made.AcquisitionNumber, made.InstanceNumber = "120", "1", k + 1
        made.SliceThickness = format_number_as_ds(_thickness(planes))
        _place(made, planes, k)
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = _CT_INTERCEPT, 1, "HU"
        made.PixelData = np.rint(plane - _CT_INTERCEPT).astype("<i2").tobytes()
        _save(made, folder / f"ct_{k * 7 % count if count % 7 else k:03d}.dcm")


def _thickness(planes: Planes) -> float:
    if len(planes.positions) < 2:
        return 1.0
    return float(np.linalg.norm(planes.positions[1] - planes.positions[0]))


def write_structures(
    path: Path, drawn: Mapping[str, Sequence[Sequence[Array]]], targets: Sequence[str], slices: int, identity: Identity
) -> None:
    """A structure set; ``drawn`` holds, by name and slice, closed outlines (n, 3). The body's name is BODY.

    Structures are numbered from 1 in the order of ``drawn``; their contours follow in the opposite order, as the
    standard allows.
    """
    made = _new(RTStructureSetStorage, "RTSTRUCT", identity.uid("rs"), identity)
    made.StructureSetLabel, made.StructureSetDate, made.StructureSetTime = "PHANTOM", "20260101", "120000"
    made.ApprovalStatus = "UNAPPROVED"
    series = Dataset()
    series.SeriesInstanceUID = identity.uid("series CT")
    series.ContourImageSequence = [_refer(CTImageStorage, identity.uid(f"ct {k}")) for k in range(slices)]
    study = _refer(_STUDY_COMPONENT, identity.uid("study"))
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = identity.uid("frame"), [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    named: list[Dataset] = []
    contoured: list[Dataset] = []
    observed: list[Dataset] = []
    for number, (name, slices_of) in enumerate(drawn.items(), 1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "AUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = identity.uid("frame")
        named.append(roi)
        contoured.insert(0, _contours(number, slices_of, identity))
        seen = Dataset()
        seen.ObservationNumber, seen.ReferencedROINumber, seen.ROIInterpreter = number, number, ""
        seen.RTROIInterpretedType = "EXTERNAL" if name == "BODY" else "PTV" if name in targets else "ORGAN"
        observed.append(seen)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = named, contoured, observed
    _save(made, path)


def _contours(number: int, slices: Sequence[Sequence[Array]], identity: Identity) -> Dataset:
    made = Dataset()
    made.ROIDisplayColor, made.ReferencedROINumber = [255, number % 256, 0], number
    found = []
    for k, contours in enumerate(slices):
        for points in contours:
            item = Dataset()
            item.ContourImageSequence = [_refer(CTImageStorage, identity.uid(f"ct {k}"))]
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = [f"{value:.4f}" for value in points.ravel()]
            found.append(item)
    if found:
        made.ContourSequence = found
    return made


def write_plan(
    path: Path,
    gantry_deg: Sequence[float],
    isocentre_xyz: Sequence[float],
    levels_gy: Mapping[int, float],
    position: str,
    identity: Identity,
) -> None:
    """A plan of static photon beams; ``levels_gy`` prescribes to structures by their number."""
    made = _new(RTPlanStorage, "RTPLAN", identity.uid("rp"), identity)
    made.RTPlanLabel, made.RTPlanDate, made.RTPlanTime = "PHANTOM", "20260101", "120000"
    made.RTPlanGeometry, made.PlanIntent = "PATIENT", "RESEARCH"
    made.DoseReferenceSequence = [_prescription(n, roi, level) for n, (roi, level) in enumerate(levels_gy.items(), 1)]
    group = Dataset()
    group.FractionGroupNumber, group.NumberOfFractionsPlanned = 1, 35
    group.NumberOfBeams, group.NumberOfBrachyApplicationSetups = len(gantry_deg), 0
    group.ReferencedBeamSequence = [_beam_metering(beam) for beam in range(1, len(gantry_deg) + 1)]
    made.FractionGroupSequence = [group]
    made.BeamSequence = [_beam(n, angle, isocentre_xyz) for n, angle in enumerate(gantry_deg, 1)]
    setup = Dataset()
    setup.PatientSetupNumber, setup.PatientPosition = 1, position
    made.PatientSetupSequence = [setup]
    made.ReferencedStructureSetSequence = [_refer(RTStructureSetStorage, identity.uid("rs"))]
    _save(made, path)


def _prescription(number: int, roi: int, level_gy: float) -> Dataset:
    made = Dataset()
    made.DoseReferenceNumber, made.DoseReferenceStructureType, made.DoseReferenceType = number, "VOLUME", "TARGET"
    made.ReferencedROINumber, made.TargetPrescriptionDose = roi, level_gy
    return made


def _beam_metering(beam: int) -> Dataset:
    made = Dataset()
    made.ReferencedBeamNumber, made.BeamMeterset = beam, 100.0
    return made


def _beam(number: int, gantry_deg: float, isocentre_xyz: Sequence[float]) -> Dataset:
    made = Dataset()
    made.BeamNumber, made.BeamName, made.BeamType, made.RadiationType = number, f"B{number}", "STATIC", "PHOTON"
    made.TreatmentMachineName, made.PrimaryDosimeterUnit, made.TreatmentDeliveryType = "PHANTOM", "MU", "TREATMENT"
    made.Manufacturer, made.SourceAxisDistance, made.FinalCumulativeMetersetWeight = "FedKT3D phantom", 1000.0, 1.0
    made.NumberOfWedges = made.NumberOfCompensators = made.NumberOfBoli = made.NumberOfBlocks = 0
    made.NumberOfControlPoints, made.ReferencedPatientSetupNumber = 2, 1
    jaws = []
    for device in ("ASYMX", "ASYMY"):
        limits = Dataset()
        limits.RTBeamLimitingDeviceType, limits.NumberOfLeafJawPairs = device, 1
        jaws.append(limits)
    made.BeamLimitingDeviceSequence = jaws
    first, last = Dataset(), Dataset()
    first.ControlPointIndex, first.CumulativeMetersetWeight, first.NominalBeamEnergy = 0, 0.0, 6.0
    first.GantryAngle, first.GantryRotationDirection = format_number_as_ds(gantry_deg), "NONE"
    first.BeamLimitingDeviceAngle, first.BeamLimitingDeviceRotationDirection = 0.0, "NONE"
    first.PatientSupportAngle, first.PatientSupportRotationDirection = 0.0, "NONE"
    first.TableTopEccentricAngle, first.TableTopEccentricRotationDirection = 0.0, "NONE"
    first.TableTopVerticalPosition = first.TableTopLongitudinalPosition = first.TableTopLateralPosition = None
    first.IsocenterPosition = _numbers(isocentre_xyz)
    opened = []
    for device in ("ASYMX", "ASYMY"):
        limits = Dataset()
        limits.RTBeamLimitingDeviceType, limits.LeafJawPositions = device, [-100.0, 100.0]
        opened.append(limits)
    first.BeamLimitingDevicePositionSequence = opened
    last.ControlPointIndex, last.CumulativeMetersetWeight = 1, 1.0
    made.ControlPointSequence = [first, last]
    return made


def write_dose(path: Path, dose_gy: Array, planes: Planes, identity: Identity, beam: int | None) -> None:
    """A dose of the whole plan, or of one beam, in 32 bits."""
    made = _new(RTDoseStorage, "RTDOSE", identity.uid(f"rd {beam}"), identity)
    _place(made, planes, 0)
    offsets = np.linalg.norm(planes.positions - planes.positions[0], axis=1)
    made.GridFrameOffsetVector, made.NumberOfFrames = _numbers(offsets), len(offsets)
    made.FrameIncrementPointer = pydicom.tag.Tag("GridFrameOffsetVector")
    made.SliceThickness = format_number_as_ds(_thickness(planes))
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 32, 32, 31, 0
    scaling = format_number_as_ds(max(float(dose_gy.max()), 1e-3) / (2**31))
    made.DoseUnits, made.DoseType, made.DoseGridScaling = "GY", "PHYSICAL", scaling
    made.DoseSummationType = "PLAN" if beam is None else "BEAM"
    plan = _refer(RTPlanStorage, identity.uid("rp"))
    if beam is not None:
        group = Dataset()
        group.ReferencedFractionGroupNumber = 1
        referred = Dataset()
        referred.ReferencedBeamNumber = beam
        group.ReferencedBeamSequence = [referred]
        plan.ReferencedFractionGroupSequence = [group]
    made.ReferencedRTPlanSequence = [plan]
    stored: NDArray[np.uint32] = np.rint(np.maximum(dose_gy, 0.0) / float(scaling)).astype("<u4")
    made.PixelData = stored.tobytes()
    _save(made, path)
