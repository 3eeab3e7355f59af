"""RTPLAN: the treatment beams' isocentre and gantry angles, and what was prescribed to which structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from client.dicom.headers import items, numbers, text, value
from client.dicom.open import open_dataset
from client.names.records import Prescription
from shared_model.core.errors import InputError

# Robotic radiosurgery plans hold more than 200.
MAX_BEAMS = 2000
MAX_CONTROL_POINTS = 5000
# PS3.3 C.7.1.1, C.7.2.1: what ties the dose to the patient and study that the source objects name. All are type 2:
# present, empty where the source has no value.
COPIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
COPIED_IF_THERE = ("SpecificCharacterSet", "IssuerOfPatientID", "StudyDescription")
# The identifiers of its plan that an RTDOSE repeats.
IDENTITY = (*COPIED, *COPIED_IF_THERE, "StudyInstanceUID", "SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, kw_only=True)
class Beam:
    """One treatment beam. ``isocentre_mm`` (x, y, z) LPS; ``gantry_deg`` IEC 61217, one angle, or one for each control
    point of an arc; ``couch_deg`` is PatientSupportAngle. None or empty where the plan does not say it."""

    number: int
    radiation: str
    isocentre_mm: tuple[float, float, float] | None
    gantry_deg: tuple[float, ...]
    couch_deg: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read of an RTPLAN. ``position`` is the PatientPosition of its first setup, such as HFS. ``fractions`` is
    NumberOfFractionsPlanned, ``unprescribed`` how many targets have a prescription of 0 Gy, ``label`` the record's own.
    ``identity`` holds the patient's, the study's and the plan's identifiers (IDENTITY), which an RTDOSE of this plan
    must repeat: it stays at the site."""

    beams: tuple[Beam, ...]
    beam_numbers: tuple[int, ...]
    prescriptions: tuple[Prescription, ...]
    position: str
    fractions: int | None
    brachytherapy: bool
    fraction_groups: int
    unprescribed: int = 0
    label: str = field(repr=False, default="")
    identity: Dataset = field(repr=False, default_factory=Dataset)


def read_plan(path: Path) -> Plan:
    """Treatment beams and prescriptions. Raises InputError, without path or content, for a plan that holds neither."""
    dataset = open_dataset(path)
    found = items(dataset, "BeamSequence")
    beams = [beam for beam in map(_beam, list(found)[: MAX_BEAMS + 1]) if beam is not None]
    if len(beams) > MAX_BEAMS:
        raise InputError(f"BeamSequence: more than {MAX_BEAMS} beams")
    groups = list(items(dataset, "FractionGroupSequence"))
    planned = [
        int(numbers(g, "NumberOfFractionsPlanned", 1)[0]) for g in groups if value(g, "NumberOfFractionsPlanned")
    ]
    setups = list(items(dataset, "PatientSetupSequence"))
    return Plan(
        beams=tuple(beams),
        beam_numbers=tuple(beam.number for beam in beams),
        prescriptions=tuple(_prescriptions(dataset)),
        unprescribed=sum(_is_zero(item) for item in items(dataset, "DoseReferenceSequence")),
        position=text(setups[0], "PatientPosition").upper() if setups else "",
        fractions=planned[0] if len(planned) == 1 else None,
        brachytherapy="ApplicationSetupSequence" in dataset and not beams,
        fraction_groups=len(groups),
        label=text(dataset, "RTPlanLabel"),
        identity=_identity(dataset),
    )


def _is_zero(item: Dataset) -> bool:
    return value(item, "TargetPrescriptionDose") is not None and numbers(item, "TargetPrescriptionDose", 1)[0] == 0


def _identity(dataset: Dataset) -> Dataset:
    """Return only the identifiers, each decoded here: a plan's other elements are large and not needed again."""
    found = Dataset()
    for keyword in IDENTITY:
        if value(dataset, keyword) is not None:
            found.add(dataset[keyword])
    return found


def _beam(item: Dataset) -> Beam | None:
    """Read one beam; None for setup and verification beams, which do not treat."""
    if (text(item, "TreatmentDeliveryType") or "TREATMENT").upper() != "TREATMENT":
        return None
    points = list(items(item, "ControlPointSequence"))
    if not points or len(points) > MAX_CONTROL_POINTS:
        raise InputError(f"ControlPointSequence: expected 1 to {MAX_CONTROL_POINTS} control points a beam")
    # A control point states what has changed since the one before (PS3.3 section C.8.8.14).
    angles = [numbers(p, "GantryAngle", 1)[0] % 360.0 for p in points if value(p, "GantryAngle") is not None]
    if value(points[0], "GantryAngle") is None:
        angles = []  # not said where the beam begins
    first = points[0]
    return Beam(
        number=int(numbers(item, "BeamNumber", 1)[0]),
        radiation=text(item, "RadiationType").upper(),
        isocentre_mm=_isocentre(first),
        gantry_deg=tuple(angles) if len(set(angles)) > 1 else tuple(angles[:1]),
        couch_deg=numbers(first, "PatientSupportAngle", 1)[0] % 360.0 if value(first, "PatientSupportAngle") else 0.0,
    )


def _isocentre(point: Dataset) -> tuple[float, float, float] | None:
    if not value(point, "IsocenterPosition"):  # type 2C: it may be empty
        return None
    x, y, z = numbers(point, "IsocenterPosition", 3)
    if max(abs(x), abs(y), abs(z)) > 1e4:
        raise InputError("IsocenterPosition: expected mm within 10 m")
    return (x, y, z)


def _prescriptions(dataset: Dataset) -> list[Prescription]:
    """Return prescribed doses of targets, highest first; skip a dose reference without one, or with 0 Gy."""
    found = []
    for item in items(dataset, "DoseReferenceSequence"):
        if text(item, "DoseReferenceType").upper() != "TARGET" or value(item, "TargetPrescriptionDose") is None:
            continue
        dose_gy = numbers(item, "TargetPrescriptionDose", 1)[0]
        if dose_gy == 0:  # some systems write 0 where nothing was prescribed
            continue
        if not 0 < dose_gy < 200:
            raise InputError(
                "TargetPrescriptionDose: expected 0 to 200 Gy; is it in cGy? prescribe in Gy in the planning system"
            )
        named = value(item, "ReferencedROINumber") is not None
        roi = int(numbers(item, "ReferencedROINumber", 1)[0]) if named else None
        point = text(item, "DoseReferenceStructureType").upper() in ("COORDINATES", "POINT") and roi is None
        found.append(Prescription(dose_gy=dose_gy, roi=roi, point=point))
    return sorted(found, key=lambda prescription: -prescription.dose_gy)
