"""A patient whose highest or prescribed target cannot be read is not read at all.

Else a model would be asked for the dose of the next lower level, and would answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.prediction.subject import load_subject
from shared_model.core.errors import InputError
from tests.builders.neck_reading import cc, checked, read, refusal
from tests.builders.neck_study import SHAPES, NeckStudy, Shape, doses_gy, plan_dose_gy, prescription, volume_cc

SITES = ((70.0, 56.0),)


def with_site_prescriptions(study: NeckStudy, *levels: float) -> NeckStudy:
    """The plan prescribes to no structure by its number."""
    assert study.plan is not None
    study.plan.DoseReferenceSequence = [prescription(k, gy) for k, gy in enumerate(levels, 1)]
    return study


def outlines(study: NeckStudy, name: str) -> list[np.ndarray]:
    """The contours of a structure, to be drawn again."""
    found = [study.shapes[name].outline(z) for z in study.heights]
    return [outline for outline in found if outline is not None]


def test_a_helper_of_the_highest_target_does_not_hide_it(tmp_path: Path) -> None:
    study = with_site_prescriptions(NeckStudy("z"), 70.0, 56.0)
    study.add_roi(50, "zPTV70", "PTV", outlines(study, "PTV_7000"))
    reading = read(study, tmp_path)
    assert reading.case.prescriptions_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=0.02)


def test_two_highest_targets_stop_the_patient_until_the_site_unites_them(tmp_path: Path) -> None:
    study = with_site_prescriptions(NeckStudy("two"), 70.0, 56.0)
    study.add_roi(50, "PTV 70 LN", "PTV", outlines(study, "Parotid_L"))
    assert "several targets are PTV_7000; set unite" in refusal(study, tmp_path)
    with pytest.raises(InputError, match="several targets are PTV_7000"):
        load_subject(tmp_path)  # as `client predict` does
    assert not checked(tmp_path).usable
    assert "unite" in checked(tmp_path).todo[0]
    reading = read(study, tmp_path, "unite: [PTV_7000, 'PTV 70 LN']")
    assert reading.case.prescriptions_gy["PTV_7000"] == 70.0
    both = volume_cc("PTV_7000") + volume_cc("Parotid_L")
    assert cc(reading, "PTV_7000") == pytest.approx(both, rel=0.03)


def test_the_nodes_of_both_sides_are_one_target_if_the_site_says_so(tmp_path: Path) -> None:
    shapes = {name: SHAPES[name] for name in ("BODY", "PTV_7000", "SpinalCord")}
    shapes |= {f"PTVn_{s}_5600": Shape("PTV", (x, 0, 0), (14, 20, 36)) for s, x in (("L", 45), ("R", -45))}
    study = NeckStudy("sides", shapes=shapes, levels_gy={"PTV_7000": 70, "PTVn_L_5600": 56, "PTVn_R_5600": 56})
    assert "a target of 56 Gy is not used" in refusal(study, tmp_path)
    reading = read(study, tmp_path, "unite: ['PTVn_[LR]_5600']")
    ellipsoids = 2 * 4 / 3 * np.pi * 14 * 20 * 36 / 1000
    assert cc(reading, "PTV_5600") + cc(reading, "PTV_7000") == pytest.approx(
        ellipsoids + volume_cc("PTV_7000"), rel=0.05
    )


def test_an_empty_twin_does_not_hide_the_drawn_target(tmp_path: Path) -> None:
    study = NeckStudy("twin")
    study.add_roi(60, "PTV_7000", "PTV", [])
    study.plan = None
    reading = read(study, tmp_path)
    assert reading.case.prescriptions_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}


@pytest.mark.parametrize("plan", [True, False])
def test_a_highest_target_without_contours_stops_the_patient(plan: bool, tmp_path: Path) -> None:
    study = NeckStudy("empty")
    study.drawn("PTV_7000").ContourSequence = []
    study.plan = study.plan if plan else None
    assert "a target of 70 Gy is not used: it has no contours" in refusal(study, tmp_path)
    assert not checked(tmp_path).usable


def test_a_target_in_part_drawn_by_the_workstation_is_whole(tmp_path: Path) -> None:
    for name, every in (("all", 1), ("two of three", 3)):
        study = NeckStudy(name)
        for k, contour in enumerate(study.drawn("PTV_7000").ContourSequence):
            if every == 1 or k % every:
                contour.ContourGeometricType = "INTERPOLATED_PLANAR"
        reading = read(study, tmp_path / name)
        assert reading.case.prescriptions_gy["PTV_7000"] == 70.0
        assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=0.02)


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "OPEN_NONPLANAR", "CLOSED_NONPLANAR"])
def test_a_target_of_another_shape_stops_the_patient(kind: str, tmp_path: Path) -> None:
    study = NeckStudy(kind)
    for contour in study.drawn("PTV_7000").ContourSequence:
        contour.ContourGeometricType = kind
    assert "of its contours are not closed (ContourGeometricType)" in refusal(study, tmp_path)


def test_a_target_of_no_known_level_stops_the_patient_where_no_plan_says_the_highest(tmp_path: Path) -> None:
    study = NeckStudy("open level")
    study.listed("PTV_7000").ROIName = "PTV boost"
    study.plan = None
    assert "target without one level" in refusal(study, tmp_path)
    assert read(study, tmp_path, "prescriptions_gy: {'PTV boost': 70}").case.prescriptions_gy["PTV_7000"] == 70.0


def test_the_plans_highest_level_must_be_some_targets(tmp_path: Path) -> None:
    study = with_site_prescriptions(NeckStudy("no such target"), 70.0, 56.0)
    study.listed("PTV_7000").ROIName = "Boost"
    study.structures.RTROIObservationsSequence[1].RTROIInterpretedType = "CONTROL"
    assert "the plan prescribes 70 Gy and no target of that level can be used" in refusal(study, tmp_path)
    assert read(study, tmp_path, "prescriptions_gy: {Boost: 70}").case.prescriptions_gy["PTV_7000"] == 70.0


def test_every_target_is_checked_against_its_own_level(tmp_path: Path) -> None:
    study = NeckStudy("a lower one", levels_gy={"PTV_7000": 70.0, "PTV_5600": 14.0})
    study.listed("PTV_5600").ROIName = "PTV_Low"
    study.write(tmp_path)
    row = checked(tmp_path)
    d50 = float(np.median(doses_gy("PTV_5600", ["PTV_7000"])))
    assert not row.usable
    assert f"PTV_1400 D50 {d50:.0f}"[:16] in row.why[0]
    assert "prescribed 14.0 Gy" in row.why[0]


def test_a_whole_study_stays_usable(tmp_path: Path) -> None:
    NeckStudy("whole").write(tmp_path)
    row = checked(tmp_path)
    assert row.usable
    assert row.numbers["prescriptions_gy"] == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert row.numbers["dose_max_gy"] == pytest.approx(plan_dose_gy(np.array([[30.0, -8.0, 4.0]])).max(), rel=0.02)
