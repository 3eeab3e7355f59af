"""Data cards: true of phantoms, and aggregates alone of anybody who may be a real patient."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.data.case_files import load_case
from client.setup.check_patient import CheckedPatient
from client.setup.check_patients import Looked
from shared_model.core.errors import InputError
from simulations.cli import app
from simulations.phantom.dicom import write_dicom_hospital
from simulations.phantom.hospitals import find_style, phantom_case, write_hospital
from simulations.reports.data_card import LEAST, describe, write_card
from tests.builders.gdp_plans import write_plan

SHAPE = (16, 16, 16)
OPENKBP = os.environ.get("FEDKT3D_OPENKBP")


@pytest.fixture(scope="module", params=["balanced_7f", "nodes_9f"])
def hospital(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards") / request.param
    write_hospital(folder, find_style(request.param), 6, 1, shape=SHAPE)
    return folder


def read(out: Path) -> dict:
    return json.loads((out / "card.json").read_text())


def test_the_card_of_phantoms_is_exact_and_has_small_pictures(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "card"
    assert CliRunner().invoke(app, ["data-card", str(hospital), "--out", str(out)]).exit_code == 0
    card, cases = read(out), [load_case(path) for path in sorted(hospital.glob("*.npz"))]
    assert (card["patients"], card["not_usable"], card["phantom"]) == (6, 0, True)
    assert card["body_sites"] == ["pelvis" if "nodes" in hospital.name else "head_neck"]
    for name, count in card["structures"].items():
        assert count == sum(name in case.structures for case in cases)
    assert card["prescriptions_gy"] == {f"{gy:g}": 6 for gy in sorted(set(cases[0].prescriptions_gy.values()))}
    slices = [case.grid.spacing_mm[0] for case in cases]
    np.testing.assert_allclose(card["spans"]["slice_mm"], np.percentile(slices, [0, 25, 50, 75, 100]), atol=0.006)
    for name in ("organs.png", "prescriptions.png", "slices.png"):
        assert 2_000 < (out / name).stat().st_size < 150_000, name
        assert f"({name})" in (out / "card.md").read_text()


def test_without_the_mark_of_a_phantom_there_is_no_slice_and_no_extreme_value(hospital: Path, tmp_path: Path) -> None:
    """Whoever may be a patient is treated as one: the card is made to be sent around."""
    shutil.copytree(hospital, tmp_path / "real")
    (tmp_path / "real" / "hospital.json").unlink()
    write_card(tmp_path / "real", tmp_path / "card", None, None, 1)
    card = read(tmp_path / "card")
    assert not (tmp_path / "card" / "slices.png").exists()
    assert card["phantom"] is False
    assert {len(values) for values in card["spans"].values()} == {3}
    assert "fewer" in (tmp_path / "card" / "card.md").read_text() or min(card["structures"].values()) >= LEAST
    for path in (tmp_path / "real").glob("*.npz"):
        assert path.stem not in (tmp_path / "card" / "card.md").read_text()
        assert path.stem not in (tmp_path / "card" / "card.json").read_text()


def rows(people: int, plans: int = 1, odd: int = 0) -> Looked:
    """Patients with some plans each; the first ``odd`` have a structure, a level and a grid that no other has."""
    numbers = {
        "shape": [9, 9, 9], "spacing_mm": [3.0, 2.0, 2.0], "body_cc": 1, "targets_cc": 1.0, "plates": True,
        "structures": ["SpinalCord"], "prescriptions_gy": {"PTV_7000": 70.0}, "dose_max_gy": 72.0,
        "d95_gy": {"PTV_7000": 69.0},
    }  # fmt: skip
    rare = {**numbers, "structures": ["Larynx", "SpinalCord"], "shape": [7, 9, 9]}
    rare |= {"prescriptions_gy": {"PTV_6200": 62.0}, "d95_gy": {"PTV_6200": 60.0}}
    made = [
        CheckedPatient(patient=f"p{i}_{plan}", numbers=rare if i < odd else numbers)
        for i in range(people)
        for plan in range(plans)
    ]
    return Looked(patients=tuple(made), files=len(made))


def test_a_count_below_five_patients_is_not_told(hospital: Path) -> None:
    card = describe(rows(20, odd=LEAST - 1), "dicom", phantom=False)
    assert card["structures"] == {"SpinalCord": 20, "1 others": "fewer than 5 each"}
    assert card["prescriptions_gy"] == {"70": 16, "1 others": "fewer than 5 each"}
    assert "7x9x9" not in card["shapes"]
    assert describe(rows(20, odd=LEAST), "dicom", phantom=False)["structures"]["Larynx"] == LEAST


def test_plans_of_one_patient_are_one_patient() -> None:
    """Else one patient with five plans would be a cohort."""
    card = describe(rows(6, plans=3, odd=2), "dicom", phantom=False)
    assert (card["patients"], card["plans"]) == (6, 18)
    assert "Larynx" not in card["structures"]
    with pytest.raises(InputError, match="4 of 4 patients are usable; a card needs at least 5 real ones"):
        describe(rows(4, plans=5), "gdp", phantom=False)


def test_dicom_and_gdp_plans_are_read_too(tmp_path: Path) -> None:
    write_dicom_hospital(tmp_path / "dicom", find_style("prostate_7f"), LEAST, 3, SHAPE)
    for number, patient in enumerate(("0522c0009", "001", "002", "003", "005")):  # whom the builder prescribes to
        case = phantom_case(number, find_style("balanced_7f"), SHAPE)
        write_plan(tmp_path / "gdp", case, f"{patient}+9Ag+MOS_29166")
    for kind, part in (("dicom", "pelvis"), ("gdp", "head_neck")):
        write_card(tmp_path / kind, tmp_path / f"card_{kind}", None, None, 1)
        card = read(tmp_path / f"card_{kind}")
        assert (card["kind"], card["patients"], card["body_sites"]) == (kind, LEAST, [part])


@pytest.mark.skipif(not OPENKBP, reason="FEDKT3D_OPENKBP is not set to the compact OpenKBP data set")
def test_openkbp_has_what_its_authors_say(tmp_path: Path) -> None:
    write_card(Path(str(OPENKBP)), tmp_path / "card", None, None, 2)
    card = read(tmp_path / "card")
    assert card["prescriptions_gy"]["70"] == card["patients"]
    assert card["shapes"] == {"64x64x64": card["patients"]}


def test_a_clone_must_be_converted_first_and_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "clone" / "provided-data").mkdir(parents=True)
    with pytest.raises(InputError, match="convert it first"):
        write_card(tmp_path / "clone", tmp_path / "card", None, None, 1)
    with pytest.raises(InputError, match="not empty"):
        write_card(tmp_path / "clone", tmp_path / "clone", None, None, 1)
