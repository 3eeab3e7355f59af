"""`client check` on a folder of good and bad studies: each good one usable, each bad one with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from tests.builders.neck_study import NeckStudy, plan_dose_gy, prescription

Change = Callable[[NeckStudy], None]


def rejected(study: NeckStudy) -> None:
    assert study.plan is not None
    study.plan.ApprovalStatus = "REJECTED"


def electrons(study: NeckStudy) -> None:
    assert study.plan is not None
    study.plan.BeamSequence[0].RadiationType = "ELECTRON"


def in_cgy(study: NeckStudy) -> None:
    assert study.plan is not None
    study.plan.DoseReferenceSequence = [prescription(1, 7000, roi=2)]


def electron_density(study: NeckStudy) -> None:
    for made in study.ct:
        made.RescaleType = "ED"


def open_target(study: NeckStudy) -> None:
    for contour in study.drawn("PTV_7000").ContourSequence:
        contour.ContourGeometricType = "OPEN_PLANAR"


def empty_target(study: NeckStudy) -> None:
    study.drawn("PTV_7000").ContourSequence = []


def shared_number(study: NeckStudy) -> None:
    study.add_roi(study.number("PTV_7000"), "GTV", "GTV", [])


def of_an_mr(study: NeckStudy) -> None:
    study.listed("PTV_7000").ReferencedFrameOfReferenceUID = study.uid("MR")


def half_a_dose(study: NeckStudy) -> None:
    study.doses = [study.dose(low_mm=(-80, -84, 4))]


def a_fraction(study: NeckStudy) -> None:
    study.doses = [study.dose(gy=lambda p: plan_dose_gy(p) / 35)]


def no_dose(study: NeckStudy) -> None:
    study.doses = []


def no_ct(study: NeckStudy) -> None:
    study.ct = []


def relative(study: NeckStudy) -> None:
    study.doses[0].DoseUnits = "RELATIVE"


def sliver(study: NeckStudy) -> None:
    sequence = study.drawn("PTV_7000").ContourSequence
    for contour in list(sequence):
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + np.array([0.4, 0, 0])
        sequence.append(study.contour(points))


def cyrillic(study: NeckStudy) -> None:
    study.listed("PTV_7000").ROIName, study.plan = "ПТВ", None
    study.listed("PTV_5600").ROIName = ""


def two_contents(study: NeckStudy) -> None:
    study.doses.append(study.dose(gy=lambda p: 0.95 * plan_dose_gy(p)))


BAD: dict[Change, str] = {
    rejected: "ApprovalStatus is REJECTED",
    electrons: "RadiationType ELECTRON",
    in_cgy: "is it in cGy",
    electron_density: "RescaleType: expected HU",
    open_target: "are not closed",
    empty_target: "it has no contours",
    shared_number: "ROINumber is another structure's too",
    of_an_mr: "another Frame of Reference",
    half_a_dose: "its grid covers",
    a_fraction: "dose does not fit the prescription",
    no_dose: "no dose",
    no_ct: "no CT",
    relative: "DoseUnits: expected GY",
    sliver: "cut each other out",
    cyrillic: "no target",
    two_contents: "different contents",
}
GOOD = ("HFS", "HFP", "FFS", "FFDL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    for change in BAD:
        study = NeckStudy(change.__name__, patient=f"BAD-{change.__name__}")
        change(study)
        study.write(root / change.__name__)
    for k, position in enumerate(GOOD):
        NeckStudy(position, position=position, patient=f"GOOD-{position}", slice_mm=3.0 + k).write(root / position)
    (root / "letter.pdf").write_bytes(b"%PDF-1.4")
    (root / "cut.dcm").write_bytes((root / "HFS" / "rs.dcm").read_bytes()[:3000])
    return root


def test_each_patient_is_usable_or_has_a_reason(folder: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--data", str(folder), "--json", "--show-ids"])
    report = json.loads(done.stdout)
    assert done.exit_code == (0 if report["ready"] else 2)
    assert (report["usable"], report["total"]) == (len(GOOD), len(GOOD) + len(BAD))
    rows = {row["record"].split(" ")[0]: row for row in report["patients"]}
    for position in GOOD:
        assert rows[f"GOOD-{position}"]["usable"], rows[f"GOOD-{position}"]
    for change, says in BAD.items():
        row = rows[f"BAD-{change.__name__}"]
        assert not row["usable"]
        assert any(says in text for text in [*row["why"], *row["todo"]]), row
        assert all(row["todo"])
    assert report["files"]["others"] == {"not DICOM": 1}
    (problem,) = (p for p in report["files"]["problems"] if "cut short" in p["reason"])
    assert problem["path"] == str(folder / "cut.dcm")


def test_nothing_of_a_record_is_shown_without_being_asked_for(folder: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--data", str(folder)])
    assert "Traceback" not in done.output
    assert done.output.splitlines()[0].startswith(f"{len(GOOD)} of {len(GOOD) + len(BAD)} patients are usable")
    for secret in ("GOOD-", "BAD-", "Neck", str(folder), "1.2.826"):
        assert secret not in done.output
