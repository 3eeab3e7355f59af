"""RTPLAN: the treatment beams' isocentre and gantry angles, and what was prescribed to which structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from client.dicom.headers import items, numbers, text, value
from client.dicom.open import open_dataset
from client.dicom.write import COPIED, COPIED_IF_THERE
from client.names.records import Prescription
from shared_model.core.errors import InputError

MAX_BEAMS = 200
MAX_CONTROL_POINTS = 5000
# The identifiers of its plan that an RTDOSE repeats.
IDENTITY = (*COPIED, *COPIED_IF_THERE, "StudyInstanceUID", "SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, kw_only=True)
class Beam:
    """One treatment beam. ``isocentre_mm`` (x, y, z) LPS; ``gantry_deg`` IEC 61217, one angle, or one for each control
    point of an arc; ``couch_deg`` is PatientSupportAngle."""

    number: int
    radiation: str
    isocentre_mm: tuple[float, float, float]
    gantry_deg: tuple[float, ...]
    couch_deg: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read of an RTPLAN. ``position`` is the PatientPosition of its first setup, such as HFS. ``fractions`` is
    NumberOfFractionsPlanned, ``label`` the record's own. ``identity`` holds the patient's, the study's and the plan's
    identifiers (IDENTITY), which an RTDOSE of this plan must repeat: it stays at the site."""

    beams: tuple[Beam, ...]
    beam_numbers: tuple[int, ...]
    prescriptions: tuple[Prescription, ...]
    position: str
    fractions: int | None
    brachytherapy: bool
    fraction_groups: int
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
        position=text(setups[0], "PatientPosition").upper() if setups else "",
        fractions=planned[0] if len(planned) == 1 else None,
        brachytherapy="ApplicationSetupSequence" in dataset and not beams,
        fraction_groups=len(groups),
        label=text(dataset, "RTPlanLabel"),
        identity=_identity(dataset),
    )


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
    if not angles or value(points[0], "GantryAngle") is None:
        raise InputError("GantryAngle: missing in a beam's first control point")
    first = points[0]
    return Beam(
        number=int(numbers(item, "BeamNumber", 1)[0]),
        radiation=text(item, "RadiationType").upper(),
        isocentre_mm=_isocentre(first),
        gantry_deg=tuple(angles) if len(set(angles)) > 1 else (angles[0],),
        couch_deg=numbers(first, "PatientSupportAngle", 1)[0] % 360.0 if value(first, "PatientSupportAngle") else 0.0,
    )


def _isocentre(point: Dataset) -> tuple[float, float, float]:
    x, y, z = numbers(point, "IsocenterPosition", 3)
    if max(abs(x), abs(y), abs(z)) > 1e4:
        raise InputError("IsocenterPosition: expected mm within 10 m")
    return (x, y, z)


def _prescriptions(dataset: Dataset) -> list[Prescription]:
    """Return prescribed doses of targets, highest first; skip a dose reference without one."""
    found = []
    for item in items(dataset, "DoseReferenceSequence"):
        if text(item, "DoseReferenceType").upper() != "TARGET" or value(item, "TargetPrescriptionDose") is None:
            continue
        dose_gy = numbers(item, "TargetPrescriptionDose", 1)[0]
        if not 0 < dose_gy < 200:
            raise InputError("TargetPrescriptionDose: expected 0 to 200 Gy")
        named = value(item, "ReferencedROINumber") is not None
        roi = int(numbers(item, "ReferencedROINumber", 1)[0]) if named else None
        found.append(Prescription(dose_gy=dose_gy, roi=roi))
    return sorted(found, key=lambda prescription: -prescription.dose_gy)
