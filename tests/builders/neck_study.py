"""A neck of ellipsoids and cylinders as DICOM-RT, whose volumes and doses follow from formulas, for a test to change.

Nothing of the product or of the phantoms is used: a study is built from pydicom alone, in LPS and mm, and ``volume_cc``
and ``doses_gy`` say what a reader should find, by dense sampling of the formulas.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

Points = NDArray[np.float64]
DoseGy = Callable[[Points], Points]


@dataclass(frozen=True)
class Shape:
    """An ellipsoid about ``centre`` (x, y, z), or with an infinite third radius a cylinder along the body."""

    kind: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]

    def depth(self, points: Points) -> Points:
        """1 on the surface, less inside; ``points`` (..., 3)."""
        return np.asarray(np.sqrt((((points - self.centre) / self.radii) ** 2).sum(axis=-1)))

    def outline(self, z: float, count: int = 72) -> Points | None:
        """The contour on the plane at ``z``, (count, 3); None where the plane misses it."""
        left = 1 - ((z - self.centre[2]) / self.radii[2]) ** 2
        if left <= 1e-3:
            return None
        turn = np.arange(count) * 2 * np.pi / count
        x = self.centre[0] + self.radii[0] * np.sqrt(left) * np.cos(turn)
        y = self.centre[1] + self.radii[1] * np.sqrt(left) * np.sin(turn)
        return np.stack([x, y, np.full(count, z)], axis=1)


SHAPES: dict[str, Shape] = {
    "BODY": Shape("EXTERNAL", (0, 0, 0), (82, 84, np.inf)),
    "PTV_7000": Shape("PTV", (18, -8, 4), (20, 22, 26)),
    "PTV_5600": Shape("PTV", (4, -4, 0), (44, 36, 40)),
    "Parotid_L": Shape("ORGAN", (58, 20, 30), (11, 14, 18)),
    "Parotid_R": Shape("ORGAN", (-58, 20, 30), (11, 14, 18)),
    "SpinalCord": Shape("ORGAN", (0, 58, 0), (8, 8, np.inf)),
    "Larynx": Shape("ORGAN", (0, -52, -26), (15, 14, 16)),
}
LEVELS_GY: dict[str, float] = {"PTV_7000": 70.0, "PTV_5600": 56.0}
# Directions of an image's rows and columns for each position on the couch (PS3.3 section C.7.6.2.1.1).
DIRECTIONS: dict[str, tuple[int, ...]] = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "FFDR": (0, -1, 0, -1, 0, 0),
    "FFDL": (0, 1, 0, 1, 0, 0),
}
REACH_MM = (84.0, 87.0, 60.0)


def plan_dose_gy(points: Points) -> Points:
    """The planned dose: plateaus over the targets that fall off beyond them, and a slope from right to left."""
    high = 71.4 / (1 + np.exp((SHAPES["PTV_7000"].depth(points) - 1.3) / 0.06))
    low = 57.4 / (1 + np.exp((SHAPES["PTV_5600"].depth(points) - 1.25) / 0.06))
    return np.asarray(np.maximum(high, low) + 4.0 / (1 + np.exp(-points[..., 0] / 25.0)))


def doses_gy(name: str, without: Sequence[str] = (), dose: DoseGy = plan_dose_gy, step: float = 1.0) -> Points:
    """Dose at points ``step`` mm apart in a shape less others, within the scanned length."""
    shape = SHAPES[name]
    sides = []
    for centre, radius, reach in zip(shape.centre, shape.radii, REACH_MM, strict=True):
        low, high = max(centre - radius, -reach - 2), min(centre + radius, reach + 2)
        sides.append(np.arange(low, high, step) + step / 2)
    points = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = shape.depth(points) <= 1
    for other in without:
        inside &= SHAPES[other].depth(points) > 1
    return dose(points[inside])


def volume_cc(name: str, without: Sequence[str] = ()) -> float:
    """Volume of a shape less others, within the scanned length."""
    return len(doses_gy(name, without)) / 1000.0


def decimals(values: Any) -> list[str]:
    """Numbers as DICOM's decimal strings, of at most 16 characters."""
    return [f"{float(v):.4f}" for v in np.ravel(np.asarray(values, dtype=float))]


def referring(sop_class: str, uid: str) -> Dataset:
    """An item that refers to an instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


class NeckStudy:
    """One study in memory. ``ct``, ``structures``, ``plan``, ``doses`` and ``extra`` are data sets to be changed."""

    def __init__(
        self,
        seed: str = "neck",
        *,
        position: str = "HFS",
        pixel_mm: tuple[float, float] = (3.0, 3.0),
        slice_mm: float = 4.0,
        shapes: Mapping[str, Shape] | None = None,
        levels_gy: Mapping[str, float] | None = None,
        every: int = 1,
        patient: str | None = None,
    ) -> None:
        self.seed, self.position, self.patient = seed, position, patient or f"NECK-{seed}"
        self.shapes = dict(SHAPES if shapes is None else shapes)
        self.levels_gy = dict(LEVELS_GY if levels_gy is None else levels_gy)
        self.heights = np.arange(-REACH_MM[2], REACH_MM[2] + 1e-6, slice_mm)
        self.ct = [self._slice(k, z, pixel_mm, slice_mm) for k, z in enumerate(self.heights)]
        self.structures = self._structure_set(every)
        self.plan: Dataset | None = self._plan()
        self.doses = [self.dose()]
        self.extra: list[Dataset] = []

    def uid(self, of: str) -> UID:
        """The UID of one of the study's objects."""
        return generate_uid(entropy_srcs=["neck study", self.seed, of])

    def made(self, sop_class: str, modality: str, of: str) -> FileDataset:
        """A new data set of this study."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), self.uid(of)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        made.SpecificCharacterSet, made.Modality = "ISO_IR 192", modality
        made.SOPClassUID, made.SOPInstanceUID = sop_class, self.uid(of)
        made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Neck^Some", self.patient, "", "O"
        made.StudyInstanceUID, made.SeriesInstanceUID = self.uid("study"), self.uid(f"series {modality}")
        made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20260101", "101010", "1", ""
        made.ReferringPhysicianName, made.Manufacturer, made.SeriesNumber, made.InstanceNumber = "", "neck", 1, 1
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = self.uid("frame"), ""
        return made

    def _slice(self, k: int, z: float, pixel_mm: tuple[float, float], slice_mm: float) -> Dataset:
        row, column = np.split(np.array(DIRECTIONS[self.position], dtype=float), 2)
        reach = np.array(REACH_MM)
        right, down = float(np.abs(row) @ reach), float(np.abs(column) @ reach)
        rows, columns = int(2 * down / pixel_mm[0]) + 1, int(2 * right / pixel_mm[1]) + 1
        first = -right * row - down * column + np.array([0, 0, z])
        made = self.made(CTImageStorage, "CT", f"ct {k}")
        made.ImageType, made.PatientPosition, made.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], self.position, k
        made.KVP, made.AcquisitionNumber, made.SliceThickness = "120", "1", f"{slice_mm:g}"
        made.ImagePositionPatient, made.ImageOrientationPatient = decimals(first), decimals([*row, *column])
        made.PixelSpacing, made.Rows, made.Columns = decimals(pixel_mm), rows, columns
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = "-1024", "1", "HU"
        points = self._points(first, row * pixel_mm[1], column * pixel_mm[0], rows, columns)
        hu = np.where(SHAPES["BODY"].depth(points) <= 1, 30, -1000)
        made.PixelData = (hu + 1024).astype("<i2").tobytes()
        return made

    @staticmethod
    def _points(first: Points, right: Points, down: Points, rows: int, columns: int) -> Points:
        return np.asarray(first + np.arange(rows)[:, None, None] * down + np.arange(columns)[None, :, None] * right)

    def _structure_set(self, every: int) -> Dataset:
        made = self.made(RTStructureSetStorage, "RTSTRUCT", "rs")
        made.StructureSetLabel, made.StructureSetDate, made.StructureSetTime = "S", "20260101", "101010"
        series, study, frame = Dataset(), referring("1.2.840.10008.3.1.2.3.1", self.uid("study")), Dataset()
        series.SeriesInstanceUID = self.uid("series CT")
        series.ContourImageSequence = [referring(CTImageStorage, c.SOPInstanceUID) for c in self.ct]
        study.RTReferencedSeriesSequence = [series]
        frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = self.uid("frame"), [study]
        made.ReferencedFrameOfReferenceSequence = [frame]
        made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
        for number, (name, shape) in enumerate(self.shapes.items(), 1):
            outlines = [shape.outline(z) for z in self.heights[::every]]
            self.add_roi(number, name, shape.kind, [o for o in outlines if o is not None], into=made)
        return made

    def add_roi(
        self, number: int, name: str, kind: str, outlines: Sequence[Points], *, into: Dataset | None = None
    ) -> Dataset:
        """Add a structure of closed contours; returns the item that holds them."""
        into = self.structures if into is None else into
        roi, seen, drawn = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "MANUAL"
        roi.ReferencedFrameOfReferenceUID = self.uid("frame")
        seen.ObservationNumber, seen.ReferencedROINumber, seen.RTROIInterpretedType = number, number, kind
        seen.ROIInterpreter, drawn.ReferencedROINumber = "", number
        drawn.ContourSequence = [self.contour(points) for points in outlines]
        into.StructureSetROISequence.append(roi)
        into.RTROIObservationsSequence.append(seen)
        into.ROIContourSequence.append(drawn)
        return drawn

    def contour(self, points: Points, kind: str = "CLOSED_PLANAR") -> Dataset:
        """One contour, which refers to the slice that it lies on."""
        made = Dataset()
        near = int(np.abs(self.heights - points[0, 2]).argmin())
        made.ContourImageSequence = [referring(CTImageStorage, self.ct[near].SOPInstanceUID)]
        made.ContourGeometricType, made.NumberOfContourPoints = kind, len(points)
        made.ContourData = decimals(points)
        return made

    def number(self, name: str) -> int:
        """The first number of the structure with this name."""
        return next(int(i.ROINumber) for i in self.structures.StructureSetROISequence if i.ROIName == name)

    def listed(self, name: str) -> Dataset:
        """Its item of StructureSetROISequence."""
        found: Dataset = next(i for i in self.structures.StructureSetROISequence if i.ROIName == name)
        return found

    def drawn(self, name: str) -> Dataset:
        """Its item of ROIContourSequence."""
        number = self.number(name)
        found: Dataset = next(i for i in self.structures.ROIContourSequence if i.ReferencedROINumber == number)
        return found

    def _plan(self) -> Dataset:
        made = self.made(RTPlanStorage, "RTPLAN", "rp")
        made.RTPlanLabel, made.RTPlanDate, made.RTPlanTime, made.RTPlanGeometry = "P", "20260101", "101010", "PATIENT"
        made.ApprovalStatus, made.PlanIntent = "APPROVED", "CURATIVE"
        made.DoseReferenceSequence = [
            prescription(k, gy, roi=list(self.shapes).index(name) + 1)
            for k, (name, gy) in enumerate(self.levels_gy.items(), 1)
        ]
        made.BeamSequence = [beam(k, 72.0 * k) for k in range(5)]
        group, setup = Dataset(), Dataset()
        group.FractionGroupNumber, group.NumberOfFractionsPlanned, group.NumberOfBeams = 1, 35, 5
        group.NumberOfBrachyApplicationSetups, group.ReferencedBeamSequence = 0, []
        made.FractionGroupSequence = [group]
        setup.PatientSetupNumber, setup.PatientPosition = 1, self.position
        made.PatientSetupSequence = [setup]
        made.ReferencedStructureSetSequence = [referring(RTStructureSetStorage, self.uid("rs"))]
        return made

    def dose(
        self,
        of: str = "rd",
        *,
        gy: DoseGy = plan_dose_gy,
        position: str | None = None,
        step_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
        low_mm: tuple[float, float, float] = (-80.0, -84.0, -60.0),
        high_mm: tuple[float, float, float] = (80.0, 84.0, 60.0),
        directions: Sequence[float] | None = None,
        bits: int = 32,
    ) -> Dataset:
        """An RTDOSE of the plan over a box; ``step_mm`` between frames, rows and columns."""
        turned = np.array(directions or DIRECTIONS[position or self.position], dtype=float)
        row, column = np.split(turned, 2)
        axis = np.cross(row, column)
        low, high = np.array(low_mm), np.array(high_mm)
        middle, size = (low + high) / 2, high - low
        spans = [float(np.abs(d) @ size) for d in (axis, column, row)]
        frames, rows, columns = (round(span / step) + 1 for span, step in zip(spans, step_mm, strict=True))
        first = middle - sum(d * span / 2 for d, span in zip((axis, column, row), spans, strict=True))
        plane = self._points(first, row * step_mm[2], column * step_mm[1], rows, columns)
        points = plane[None] + np.arange(frames)[:, None, None, None] * axis * step_mm[0]
        values = gy(points)
        made = self.made(RTDoseStorage, "RTDOSE", of)
        made.ImagePositionPatient, made.ImageOrientationPatient = decimals(first), decimals(turned)
        made.PixelSpacing, made.Rows, made.Columns, made.NumberOfFrames = decimals(step_mm[1:]), rows, columns, frames
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
        made.FrameIncrementPointer, made.GridFrameOffsetVector = 0x3004000C, decimals(np.arange(frames) * step_mm[0])
        made.SliceThickness, made.BitsAllocated, made.BitsStored, made.HighBit = f"{step_mm[0]:g}", bits, bits, bits - 1
        scaling = float(f"{max(values.max(), 1e-3) / (2 ** (bits - 1) - 1):.10g}")
        made.DoseUnits, made.DoseType, made.DoseSummationType = "GY", "PHYSICAL", "PLAN"
        made.DoseGridScaling = f"{scaling:.10g}"
        made.PixelData = np.rint(values / scaling).astype(f"<u{bits // 8}").tobytes()
        made.ReferencedRTPlanSequence = [referring(RTPlanStorage, self.uid("rp"))]
        return made

    def second_plan(self, of: str, gy: DoseGy = plan_dose_gy, **elements: str) -> tuple[Dataset, Dataset]:
        """Add another plan with a dose of its own."""
        plan, dose = copy.deepcopy(self.plan), self.dose(f"dose of {of}", gy=gy)
        assert plan is not None
        plan.SOPInstanceUID = plan.file_meta.MediaStorageSOPInstanceUID = self.uid(of)
        for keyword, content in elements.items():
            setattr(plan, keyword, content)
        dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = plan.SOPInstanceUID
        self.extra += [plan, dose]
        return plan, dose

    def write(self, folder: Path) -> Path:
        """Write every data set as a file of its own."""
        (folder / "CT").mkdir(parents=True, exist_ok=True)
        for k, made in enumerate(self.ct):
            made.save_as(folder / "CT" / f"{k:03d}.dcm", enforce_file_format=True)
        named = [("rs", self.structures), ("rp", self.plan)]
        named += [(f"rd{k}", d) for k, d in enumerate(self.doses)] + [(f"x{k}", d) for k, d in enumerate(self.extra)]
        for name, data in named:
            if data is not None:
                data.save_as(folder / f"{name}.dcm", enforce_file_format=True)
        return folder


def prescription(number: int, gy: float | str, roi: int | None = None, structure: str = "VOLUME") -> Dataset:
    """An item of DoseReferenceSequence that prescribes to a target."""
    made = Dataset()
    made.DoseReferenceNumber, made.DoseReferenceType = number, "TARGET"
    made.DoseReferenceStructureType = structure if roi is not None or structure != "VOLUME" else "SITE"
    if roi is not None:
        made.ReferencedROINumber = roi
    made.TargetPrescriptionDose = f"{float(gy):g}"
    return made


def beam(number: int, gantry_deg: float, radiation: str = "PHOTON") -> Dataset:
    """A static treatment beam at the isocentre of the higher target."""
    made, first, last = Dataset(), Dataset(), Dataset()
    made.BeamNumber, made.BeamName, made.BeamType, made.RadiationType = number, f"B{number}", "STATIC", radiation
    made.TreatmentMachineName, made.TreatmentDeliveryType, made.PrimaryDosimeterUnit = "M", "TREATMENT", "MU"
    made.SourceAxisDistance, made.FinalCumulativeMetersetWeight, made.NumberOfControlPoints = "1000", "1", 2
    made.NumberOfWedges = made.NumberOfCompensators = made.NumberOfBoli = made.NumberOfBlocks = 0
    first.ControlPointIndex, first.NominalBeamEnergy, first.GantryAngle = 0, "6", f"{gantry_deg:g}"
    first.GantryRotationDirection, first.BeamLimitingDeviceAngle, first.PatientSupportAngle = "NONE", "0", "0"
    first.IsocenterPosition, first.CumulativeMetersetWeight = decimals(SHAPES["PTV_7000"].centre), "0"
    last.ControlPointIndex, last.CumulativeMetersetWeight = 1, "1"
    made.ControlPointSequence = [first, last]
    return made
