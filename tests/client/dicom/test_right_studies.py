"""Studies that are unusual and right: volume, dose and levels must be those of the formulas that made them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.builders.neck_reading import cc, dose_of, read
from tests.builders.neck_study import DIRECTIONS, NeckStudy, Points, decimals, doses_gy, plan_dose_gy, volume_cc

Change = Callable[[NeckStudy], None]


@dataclass(frozen=True)
class Right:
    """How a study is made and changed, and what is then left out of the lower target."""

    options: dict[str, object]
    change: Change = lambda study: None
    lower_cc: float | None = None
    rel: float = 0.03


def pixels(dose: Dataset) -> np.ndarray:
    """The stored values (frames, rows, columns)."""
    stored = np.frombuffer(dose.PixelData, "<u4")
    return stored.reshape(int(dose.NumberOfFrames), dose.Rows, dose.Columns)


def beams(study: NeckStudy, *, keep: bool = False) -> None:
    """A dose for each beam, with shares that differ, as their sum or beside the plan's."""
    assert study.plan is not None
    whole, study.doses = study.doses, []
    for k, share in enumerate(np.arange(1, 6) / 15):
        made = study.dose(f"beam {k}", gy=lambda p, share=share: share * plan_dose_gy(p))  # type: ignore[misc]
        made.DoseSummationType = "BEAM"
        group, beam = Dataset(), Dataset()
        group.ReferencedFractionGroupNumber, beam.ReferencedBeamNumber = 1, k
        group.ReferencedBeamSequence = [beam]
        made.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = [group]
        study.doses.append(made)
    study.doses += whole if keep else []


def absolute_offsets(study: NeckStudy) -> None:
    dose = study.doses[0]
    first = float(dose.ImagePositionPatient[2])
    up = np.cross(DIRECTIONS[study.position][:3], DIRECTIONS[study.position][3:])[2]
    step = 4.0 * float(up)
    dose.GridFrameOffsetVector = decimals(first + step * np.arange(int(dose.NumberOfFrames)))


def descending(study: NeckStudy) -> None:
    dose = study.doses[0]
    frames = int(dose.NumberOfFrames)
    up = np.cross(DIRECTIONS[study.position][:3], DIRECTIONS[study.position][3:])[2]
    dose.PixelData = pixels(dose)[::-1].tobytes()
    dose.ImagePositionPatient[2] = float(dose.ImagePositionPatient[2]) + float(up) * 4.0 * (frames - 1)
    dose.GridFrameOffsetVector = decimals(-4.0 * np.arange(frames))


def uneven(study: NeckStudy) -> None:
    dose = study.doses[0]
    kept = [k for k in range(int(dose.NumberOfFrames)) if k < 8 or k > 22 or k % 2 == 0]
    dose.PixelData, dose.NumberOfFrames = pixels(dose)[kept].tobytes(), len(kept)
    dose.GridFrameOffsetVector = decimals([4.0 * k for k in kept])


def dose(**options: object) -> Change:
    def change(study: NeckStudy) -> None:
        study.doses = [study.dose(**options)]  # type: ignore[arg-type]

    return change


def turned(degrees: float, axis: str) -> Change:
    a = np.radians(degrees)
    in_plane = (np.cos(a), np.sin(a), 0, -np.sin(a), np.cos(a), 0)
    pitched = (1, 0, 0, 0, np.cos(a), np.sin(a))
    directions = in_plane if axis == "z" else pitched
    return dose(directions=directions, low_mm=(-100, -110, -84), high_mm=(100, 110, 84))


def signed(study: NeckStudy) -> None:
    study.doses = [study.dose(bits=16)]
    study.doses[0].PixelRepresentation = 1


def no_summation(study: NeckStudy) -> None:
    del study.doses[0].DoseSummationType


def names_all_beams(study: NeckStudy) -> None:
    group = Dataset()
    group.ReferencedFractionGroupNumber, group.ReferencedBeamSequence = 1, []
    for k in range(5):
        item = Dataset()
        item.ReferencedBeamNumber = k
        group.ReferencedBeamSequence.append(item)
    study.doses[0].ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = [group]


HOLE_CC = np.pi * 9.0**2 * 20.0 / 1000


def ring(radius: float, z: float) -> Points:
    turn = np.arange(60) * 2 * np.pi / 60
    return np.stack([-22 + radius * np.cos(turn), radius * np.sin(turn), np.full(60, z)], axis=1)


def hole(kind: str) -> Change:
    """A hole along 20 mm of the lower target: as a contour, as a keyhole, or by XOR with an island in it."""

    def change(study: NeckStudy) -> None:
        made = []
        for contour in study.drawn("PTV_5600").ContourSequence:
            z = float(contour.ContourData[2])
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            if abs(z) >= 10:
                made.append(contour)
            elif kind == "keyhole":
                inner = np.vstack([ring(9, z)[::-1], ring(9, z)[-1:]])
                half = len(points) // 2
                made.append(study.contour(np.vstack([points[: half + 1], inner, points[half:]])))
            else:
                name = "CLOSEDPLANAR_XOR" if kind == "xor" else "CLOSED_PLANAR"
                made += [study.contour(points, name), study.contour(ring(9, z), name)]
                made += [study.contour(ring(4, z), name)] if kind == "xor" else []
        study.drawn("PTV_5600").ContourSequence = made

    return change


def off_plane(by_mm: float) -> Change:
    def change(study: NeckStudy) -> None:
        for drawn in study.structures.ROIContourSequence:
            for contour in drawn.ContourSequence:
                points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
                contour.ContourData = decimals(points + np.array([0, 0, by_mm]))

    return change


def without(of: Callable[[NeckStudy], Dataset], *keywords: str) -> Change:
    def change(study: NeckStudy) -> None:
        for keyword in keywords:
            delattr(of(study), keyword)

    return change


def no_contour_images(study: NeckStudy) -> None:
    for drawn in study.structures.ROIContourSequence:
        for contour in drawn.ContourSequence:
            del contour.ContourImageSequence


def spaces(study: NeckStudy) -> None:
    for old, new in (("Parotid_L", "Parotid_L  "), ("PTV_7000", " PTV_7000 "), ("SpinalCord", "spinal  cord ")):
        study.listed(old).ROIName = new


def a_plan_of_a_lost_structure_set(study: NeckStudy) -> None:
    assert study.plan is not None
    study.plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = study.uid("lost")


def a_dose_of_a_lost_plan(study: NeckStudy) -> None:
    study.doses[0].ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = study.uid("lost")


def setup_beam(study: NeckStudy) -> None:
    assert study.plan is not None
    item = copy.deepcopy(study.plan.BeamSequence[0])
    item.BeamNumber, item.TreatmentDeliveryType = 99, "SETUP"
    del item.ControlPointSequence[0].IsocenterPosition, item.ControlPointSequence[0].GantryAngle
    study.plan.BeamSequence.append(item)


def arc(study: NeckStudy) -> None:
    assert study.plan is not None
    item = study.plan.BeamSequence[0]
    item.BeamType = "DYNAMIC"
    for k in range(1, 60):
        point = Dataset()
        point.ControlPointIndex, point.GantryAngle = k, f"{(181 + 6 * k) % 360}"
        item.ControlPointSequence.insert(k, point)
    study.plan.BeamSequence = [item]


def no_plan(study: NeckStudy) -> None:
    study.plan = None


def couch(study: NeckStudy) -> None:
    turn = np.arange(40) * 2 * np.pi / 40
    outline = [np.stack([30 * np.cos(turn), 100 + 4 * np.sin(turn), np.full(40, z)], axis=1) for z in study.heights]
    study.add_roi(70, "CouchSurface", "SUPPORT", outline)


def beyond_the_ct(study: NeckStudy) -> None:
    beyond = [study.shapes["SpinalCord"].outline(z) for z in np.arange(64, 100, 4.0)]
    study.drawn("SpinalCord").ContourSequence += [study.contour(points) for points in beyond if points is not None]


RIGHT: dict[str, Right] = {
    **{position: Right({"position": position}) for position in DIRECTIONS},
    "pixels 2 x 3 mm": Right({"pixel_mm": (2.0, 3.0)}),
    "slices of 2 mm": Right({"slice_mm": 2.0}),
    "slices of 5 mm": Right({"slice_mm": 5.0}),
    "every second slice drawn": Right({"slice_mm": 3.0, "every": 2}, rel=0.08),
    "dose on the axes of HFS, CT of HFP": Right({"position": "HFP"}, dose(position="HFS")),
    "dose on the axes of HFS, CT of FFS": Right({"position": "FFS"}, dose(position="HFS", step_mm=(3, 4, 2))),
    "doses of beams": Right({}, beams),
    "doses of beams beside the plan's": Right({}, lambda study: beams(study, keep=True)),
    "offsets are positions, HFS": Right({}, absolute_offsets),
    "offsets are positions, HFP": Right({"position": "HFP"}, absolute_offsets),
    "offsets are positions, FFS": Right({"position": "FFS"}, absolute_offsets),
    "offsets descend, HFS": Right({}, descending),
    "offsets descend, FFS": Right({"position": "FFS"}, descending),
    "frames uneven": Right({}, uneven),
    "dose turned by 12 degrees": Right({}, turned(12, "z")),
    "dose pitched by 8 degrees": Right({}, turned(8, "x")),
    "dose of 16 bits, 2.5 x 4 x 5 mm": Right({}, dose(bits=16, step_mm=(2.5, 4, 5))),
    "dose of 16 bits, signed": Right({}, signed),
    "dose of no summation type": Right({}, no_summation),
    "dose of a plan, naming all beams": Right({}, names_all_beams),
    "dose of a lost plan": Right({}, a_dose_of_a_lost_plan),
    "hole": Right({}, hole("contour"), lower_cc=-HOLE_CC),
    "keyhole": Right({}, hole("keyhole"), lower_cc=-HOLE_CC),
    "hole with an island, XOR": Right({}, hole("xor"), lower_cc=-HOLE_CC * (1 - (4 / 9) ** 2)),
    "contours 0.13 mm off their planes": Right({}, off_plane(-0.134)),
    "no references of the structure set": Right(
        {}, without(lambda s: s.structures, "ReferencedFrameOfReferenceSequence")
    ),
    "no observations": Right({}, without(lambda s: s.structures, "RTROIObservationsSequence")),
    "no images of contours": Right({}, no_contour_images),
    "spaces in names": Right({}, spaces),
    "a lost structure set's plan": Right({}, a_plan_of_a_lost_structure_set),
    "no fraction group": Right({}, without(lambda s: s.plan or Dataset(), "FractionGroupSequence")),
    "a setup beam": Right({}, setup_beam),
    "an arc": Right({}, arc),
    "no plan": Right({}, no_plan),
    "a couch": Right({}, couch),
    "contours beyond the CT": Right({}, beyond_the_ct),
}


@pytest.mark.parametrize("name", RIGHT)
def test_it_is_read_as_it_was_made(name: str, tmp_path: Path) -> None:
    right = RIGHT[name]
    study = NeckStudy(name, **right.options)  # type: ignore[arg-type]
    right.change(study)
    reading = read(study, tmp_path)
    assert reading.case.prescriptions_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    lower = volume_cc("PTV_5600", ["PTV_7000"]) + (right.lower_cc or 0.0)
    assert cc(reading, "PTV_5600") == pytest.approx(lower, rel=right.rel)
    assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=right.rel)
    expected = doses_gy("PTV_7000")
    found = dose_of(reading, "PTV_7000")
    assert float(found.mean()) == pytest.approx(expected.mean(), rel=0.01)
    assert float(np.percentile(found, 5)) == pytest.approx(np.percentile(expected, 5), rel=0.01)
    for organ in ("Parotid_L", "Parotid_R", "SpinalCord"):
        assert cc(reading, organ) == pytest.approx(volume_cc(organ), rel=max(0.09, 2 * right.rel))
        assert float(dose_of(reading, organ).mean()) == pytest.approx(doses_gy(organ).mean(), abs=0.25)
