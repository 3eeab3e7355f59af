"""Phantom -> DICOM -> Case: the patient comes back as he was, in every position on the couch and however scanned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.dicom.study import Reading, read_case, read_source
from client.names.rules import NameRules
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from simulations.phantom.planes import ORIENTATIONS, Scan
from tests.builders.dicom_study import dice, patient, truth_on, written

PRESCRIPTION_GY = 70.0


def _compare(reading: Reading, case: Case, volume: float = 0.01) -> None:
    """The mask, dose, CT and geometry limits of a round trip."""
    read = reading.case
    assert set(read.structures) == set(case.structures)
    assert read.prescriptions_gy == case.prescriptions_gy
    for name, mask in {"body": case.body, **case.structures}.items():
        true = truth_on(read.grid, mask, case, 0, 0.0) > 0
        found = read.body if name == "body" else read.structures[name]
        least = 0.99 if mask.sum() * case.grid.voxel_cc > 5 else 0.97
        assert dice(true, found) >= least, name
        # Nothing of a structure was cropped away.
        assert found.sum() * read.grid.voxel_cc == pytest.approx(mask.sum() * case.grid.voxel_cc, rel=volume), name
    assert read.dose_gy is not None
    assert case.dose_gy is not None
    true_dose = truth_on(read.grid, case.dose_gy, case, 1, 0.0) * read.body
    assert np.abs(true_dose - read.dose_gy).max() <= 0.005 * PRESCRIPTION_GY


def _on_the_lattice(read: Case, case: Case) -> None:
    """Voxels of the Case that was read are voxels of the phantom's, to a micrometre."""
    assert np.allclose(read.grid.spacing_mm, case.grid.spacing_mm, atol=1e-6)
    steps = (np.array(read.grid.origin_mm) - case.grid.origin_mm) / case.grid.spacing_mm
    assert np.abs(steps - np.rint(steps)).max() < 1e-6


@pytest.mark.parametrize("position", ORIENTATIONS)
def test_round_trip_in_every_position(position: str, tmp_path: Path) -> None:
    case = patient()
    reading = read_case(written(tmp_path, Scan(position=position)))
    _compare(reading, case)
    _on_the_lattice(reading.case, case)
    read = reading.case
    assert read.ct_hu is not None
    assert case.ct_hu is not None
    assert np.abs(truth_on(read.grid, case.ct_hu, case, 1, -1000.0) - read.ct_hu).max() <= 0.51  # stored as whole HU
    # The plates are those of the same beams about the same patient, wherever his head lies.
    for plate, true in ((read.beam_plate, case.beam_plate), (read.angle_plate, case.angle_plate)):
        assert plate is not None
        assert true is not None
        assert np.abs(truth_on(read.grid, true, case, 1, 0.0) - plate)[read.body].max() < 0.02
    assert reading.notes == ()
    assert read.gantry_deg == pytest.approx(case.gantry_deg, abs=0.1)


def test_pixels_that_are_not_square_nor_the_grids_own(tmp_path: Path) -> None:
    """A strip one voxel of 12.1 mm wide is three or four pixels of 3.1 mm wide."""
    _compare(read_case(written(tmp_path, Scan(pixel_mm=(2.0, 3.1)))), patient(), volume=0.15)


def test_fine_slices_are_joined_to_voxels_of_three_millimetres(tmp_path: Path) -> None:
    """Pixels of 0.9 mm: groups of three, averaged."""
    study = written(tmp_path, Scan(position="FFP", pixel_mm=(0.95, 0.9)), edge=12)
    read, case = read_case(study).case, patient(3, 12)
    assert read.grid.spacing_mm[1:] == pytest.approx((2.85, 2.7))
    for name, mask in case.structures.items():
        assert dice(truth_on(read.grid, mask, case, 0, 0.0) > 0, read.structures[name]) > 0.93, (
            name
        )  # a few voxels of 23 x 32 mm


def test_a_tilted_gantry(tmp_path: Path) -> None:
    """Planes lean by 12 degrees: shapes stay, to within half a slice of 6 mm at their ends."""
    case = patient()
    reading = read_case(written(tmp_path, Scan(tilt_deg=12.0, pixel_mm=(3.0, 3.0))))
    read = reading.case
    for name, mask in {"body": case.body, **case.structures}.items():
        found = read.body if name == "body" else read.structures[name]
        true_centre = case.grid.position_mm(np.argwhere(mask).mean(axis=0))
        assert np.abs(true_centre - read.grid.position_mm(np.argwhere(found).mean(axis=0))).max() < 2.0, name
        assert found.sum() * read.grid.voxel_cc == pytest.approx(mask.sum() * case.grid.voxel_cc, rel=0.08), name
        assert dice(truth_on(read.grid, mask, case, 0, 0.0) > 0, found) > 0.92, name
    assert read.dose_gy is not None
    assert case.dose_gy is not None
    true_dose = truth_on(read.grid, case.dose_gy, case, 1, 0.0) * read.body
    assert np.abs(true_dose - read.dose_gy).max() <= 0.005 * PRESCRIPTION_GY


@pytest.mark.parametrize(
    ("scan", "says"), [(Scan(uneven=1.4), "uneven|even grid"), (Scan(missing=(10, 20)), "2 slices are missing")]
)
def test_uneven_and_missing_slices_are_interpolated_and_said(scan: Scan, says: str, tmp_path: Path) -> None:
    case = patient()
    reading = read_case(written(tmp_path, scan))
    assert any(says.split("|")[-1] in note for note in reading.notes)
    read = reading.case
    for name in case.targets:
        true = truth_on(read.grid, case.structures[name], case, 0, 0.0) > 0
        assert dice(true, read.structures[name]) > 0.95, name
    assert read.dose_gy is not None
    assert case.dose_gy is not None
    assert np.abs(truth_on(read.grid, case.dose_gy, case, 1, 0.0) * read.body - read.dose_gy).max() < 0.35


def test_a_wide_gap_is_refused(tmp_path: Path) -> None:
    study = written(tmp_path, Scan(missing=tuple(range(10, 16))), edge=24)
    with pytest.raises(InputError, match=r"case \w+: CT: slices are missing: a gap of"):
        read_case(study)


def test_doses_of_beams_are_summed(tmp_path: Path) -> None:
    study = written(tmp_path / "a", Scan(beams=True))
    reading = read_case(study)
    _compare(reading, patient())
    assert "dose: the sum of 9 beams" in reading.notes
    study.doses[0].path.unlink()
    from client.dicom.find import find_studies

    (less,) = find_studies(tmp_path / "a").studies
    with pytest.raises(InputError, match="8 doses of beams, which are not each of the plan's 9 beams"):
        read_case(less)


def test_without_a_plan_there_are_no_plates_and_levels_come_by_name(tmp_path: Path) -> None:
    reading = read_case(written(tmp_path, Scan(plan=False), edge=16))
    assert reading.plan is None
    assert reading.case.beam_plate is None
    assert reading.case.prescriptions_gy == patient(3, 16).prescriptions_gy
    assert any("no plan (RTPLAN)" in note for note in reading.notes)


def test_exact_plates_are_drawn_on_request(tmp_path: Path) -> None:
    study = written(tmp_path, Scan(position="HFP"))
    exact, fast = (read_case(study, plates=kind).case for kind in ("exact", "fast"))
    assert exact.beam_plate is not None
    assert fast.beam_plate is not None
    inside = exact.body
    assert (
        np.corrcoef(exact.beam_plate[inside], fast.beam_plate[inside])[0, 1] > 0.5
    )  # of the highest target alone, and of all
    with pytest.raises(InputError, match="plates 'drawn'"):
        read_case(study, plates="drawn")


def test_names_of_the_site_come_from_its_file(tmp_path: Path) -> None:
    study = written(tmp_path, Scan(names={"Parotid_L": "Speicheldrüse links", "Brainstem": "BRAIN STEM"}), edge=24)
    assert "Parotid_L" not in read_case(study).case.structures
    assert "Brainstem" in read_case(study).case.structures
    (tmp_path / "names.yaml").write_text('names: {Parotid_L: ["speichel.* links"]}', encoding="utf-8")
    assert "Parotid_L" in read_case(study, NameRules.load(tmp_path / "names.yaml")).case.structures


def test_sources_for_a_dose_to_be_written(tmp_path: Path) -> None:
    study = written(tmp_path, Scan(), edge=12)
    assert study.plan is not None
    source = read_source(study.plan)
    assert source.SOPInstanceUID == study.plan.uid
    assert "PixelData" not in read_source(study.ct[0])
