"""Nothing is dropped without a note: contours of other types, copies, organs that a dose grid cuts, files not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from client.data.case_files import load_case, save_case
from client.setup import check as preflight
from client.setup.check_patients import Source
from client.site.config import DICOM
from shared_model.diffusion.modalities import mirror
from shared_model.scoring.dosimetry import score_case
from tests.builders.neck_reading import cc, checked, dose_of, read, refusal
from tests.builders.neck_study import NeckStudy, Points, doses_gy, volume_cc

COPIES: dict[str, Callable[[Points], Points]] = {
    "same": lambda p: p,
    "rotated": lambda p: np.roll(p, 7, axis=0),
    "reversed": lambda p: p[::-1],
    "rounded": lambda p: np.round(p, 1),
    "closed": lambda p: np.vstack([p, p[:1]]),
    "all": lambda p: np.round(np.vstack([np.roll(p[::-1], 5, axis=0), np.roll(p[::-1], 5, axis=0)[:1]]), 2),
}


def drawn_again(study: NeckStudy, name: str, change: Callable[[Points], Points]) -> None:
    """Every contour of a structure a second time, changed."""
    sequence = study.drawn(name).ContourSequence
    for contour in list(sequence):
        sequence.append(study.contour(change(np.array(contour.ContourData, dtype=float).reshape(-1, 3))))


@pytest.mark.parametrize("change", COPIES)
def test_contours_that_are_there_twice_count_once(change: str, tmp_path: Path) -> None:
    study = NeckStudy(change)
    drawn_again(study, "PTV_7000", COPIES[change])
    drawn_again(study, "Larynx", COPIES[change])
    reading = read(study, tmp_path)
    for name in ("PTV_7000", "Larynx"):
        assert cc(reading, name) == pytest.approx(volume_cc(name), rel=0.03)
        count = len(study.drawn(name).ContourSequence) // 2
        assert f"{name}: {count} contours are there twice and count once" in reading.notes


def test_a_target_whose_contours_cut_each_other_out_is_refused(tmp_path: Path) -> None:
    """Two copies 0.4 mm apart are no copies, and leave a sliver of the target."""
    study = NeckStudy("sliver")
    drawn_again(study, "PTV_7000", lambda p: p + np.array([0.4, 0.0, 0.0]))
    assert "its contours cut each other out" in refusal(study, tmp_path)
    assert not checked(tmp_path).usable


def test_an_organ_whose_contours_cut_each_other_out_is_left_out_by_name(tmp_path: Path) -> None:
    study = NeckStudy("organ's sliver")
    drawn_again(study, "Larynx", lambda p: p + np.array([0.4, 0.0, 0.0]))
    reading = read(study, tmp_path)
    assert "Larynx" not in reading.case.structures
    assert any(note.startswith("Larynx: left out: its contours cut each other out") for note in reading.notes)


def test_a_target_of_which_half_is_open_is_refused(tmp_path: Path) -> None:
    study = NeckStudy("half open")
    for contour in study.drawn("PTV_7000").ContourSequence:
        if float(contour.ContourData[2]) > 5:
            contour.ContourGeometricType = "OPEN_PLANAR"
    assert "of its contours are not closed (ContourGeometricType)" in refusal(study, tmp_path)


def test_an_organ_of_which_a_part_is_open_is_left_out_by_name(tmp_path: Path) -> None:
    study = NeckStudy("open organ")
    study.drawn("Larynx").ContourSequence[2].ContourGeometricType = "OPEN_PLANAR"
    reading = read(study, tmp_path)
    assert "Larynx" not in reading.case.structures
    assert any(note.startswith("Larynx: left out: 1 of its contours are not closed") for note in reading.notes)


def test_points_are_left_out_with_a_note(tmp_path: Path) -> None:
    study = NeckStudy("points")
    click = np.array([[70.0, 60.0, 0.0]])
    study.drawn("PTV_7000").ContourSequence += [study.contour(click, "POINT"), study.contour(click)]
    reading = read(study, tmp_path)
    assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=0.02)
    assert "PTV_7000: 2 points, which enclose nothing, were left out" in reading.notes


def test_an_organ_that_the_dose_grid_cuts_is_named_and_has_no_mean(tmp_path: Path) -> None:
    study = NeckStudy("cut")
    study.doses = [study.dose(low_mm=(-80, -40, -60))]  # in front, the grid ends within the larynx
    reading = read(study, tmp_path)
    assert any("its grid cuts Larynx: their mean dose and V% are left out" in note for note in reading.notes)
    assert reading.case.cut_by_dose == ("Larynx",)
    assert float(dose_of(reading, "Larynx").mean()) < 0.8 * doses_gy("Larynx").mean()  # what it would have been
    assert reading.case.dose_gy is not None
    errors = score_case(reading.case, torch.from_numpy(reading.case.dose_gy)).dvh_errors
    assert "Larynx/mean" not in errors
    assert "SpinalCord/mean" in errors
    save_case(tmp_path / "case.npz", reading.case)
    assert load_case(tmp_path / "case.npz").cut_by_dose == ("Larynx",)
    assert mirror(reading.case).cut_by_dose == ("Larynx",)
    assert checked(tmp_path).usable


def test_files_that_are_not_read_are_counted_by_kind(tmp_path: Path) -> None:
    study = NeckStudy("others")
    for k in range(3):
        made = study.made("1.2.840.10008.5.1.4.1.1.4", "MR", f"mr {k}")
        study.extra.append(made)
    study.write(tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM")
    report = preflight.check(Source(kind=DICOM, root=tmp_path), None, None)
    said = "\n".join(preflight.lines(report, show_ids=False))
    assert "3 files not used: DICOM of MR Image Storage" in said
    assert "1 files not used: not DICOM" in said
    assert report.record(show_ids=False)["files"]["others"] == {"DICOM of MR Image Storage": 3, "not DICOM": 1}
    assert json.dumps(report.record(show_ids=False)).count(str(tmp_path)) == 0
