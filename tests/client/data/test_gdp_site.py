"""A folder of the GDP-HMM challenge's plans through `client predict`, `align` and `check`, by the command alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.adapters.align import data_site
from client.cli import app
from client.names.review import NOT_KNOWN
from client.prediction.subject import load_subject
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.core.errors import InputError
from tests.builders.gdp_plans import PLAN, write_plan
from tests.builders.phantom_patients import SPEC, patient
from tests.builders.small_study import ellipsoid_case

CARD = """\
schema: rt-scorecard/2
name: small
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 1, points: [[0, 0], [70, 1]]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plans of one patient and one of another, none of them equal, with an organ that the model does not know."""
    root = tmp_path_factory.mktemp("gdp")
    for size, plan in ((1.0, PLAN), (1.02, "7+9Ag+A"), (1.04, "7+A4Ac+B")):
        case = ellipsoid_case(size=size)
        write_plan(root, case, plan, **{"Submandibular_L": case.structures["Parotid_L"].astype(np.uint8)})
    return root


def run(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, [str(a) for a in (*arguments, "--json")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("kind", [(), ("--kind", "gdp")], ids=["by its looks", "as it is told"])
def test_predict_a_plan(folder: Path, tmp_path: Path, kind: tuple[str, ...]) -> None:
    record = run("predict", folder / f"{PLAN}.npz", "--out", tmp_path / "out", "--mean-of", "2", *kind)
    assert record["case"] == PLAN.replace("+", "_")
    assert "dose.dcm" not in record["files"]  # there is no DICOM study that it could refer to
    assert record["against_reference"]["dose_score_gy"] > 0
    assert any("not used: Glnd_Submand_L" in note for note in record["notes"])
    with np.load(tmp_path / "out" / "dose.npz") as made:
        assert made["dose_gy"].shape == (24, 26, 28)


def test_what_is_no_plan_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    for path, kind, says in (
        (folder, None, "give the file of one patient"),
        (folder, "gdp", "give the file of one patient"),
        (folder / f"{PLAN}.npz", "dicom", "give the folder"),
        (folder / f"{PLAN}.npz", "gpd", "expected one of"),
        (folder / f"{PLAN}.npz", "cases", "missing array"),
        (folder / "PTV_DICT.json", None, "for this patient"),
    ):
        with pytest.raises(InputError, match=says):
            load_subject(path, kind=kind)
    (tmp_path / "half64").mkdir()
    with pytest.raises(InputError, match="no such"):
        load_subject(tmp_path / "half64" / "pt_1.npz")


def test_check_tells_what_the_model_does_not_know(folder: Path) -> None:
    record = run("check", "--data", folder)
    assert record["files"]["kind"] == "gdp"
    assert (record["usable"], len(record["patients"])) == (2, 3)  # patients, and their plans
    assert record["structures"][NOT_KNOWN] == {"Glnd_Submand_L": 3}
    assert sum(len(row["structures"]) - len(row["prescriptions_gy"]) for row in record["patients"]) == 3 * len(
        {"SpinalCord", "Parotid_L"}
    )


def test_align_on_plans(tmp_path: Path) -> None:
    for number, plan in enumerate(("1+A+x", "1+B+x", "2+A+x", "5+A+x")):
        write_plan(tmp_path / "plans", patient(number), plan)
    (tmp_path / "card.yaml").write_text(CARD)
    save_adapter(tmp_path / "shared.safetensors", SPEC, initial_vector(SPEC))
    found = data_site(tmp_path / "plans")
    assert (found.data, found.plans, found.validation) == ("gdp", (("1_A_x", "1_B_x"),), ("5_A_x",))
    common = ["--scorecard", tmp_path / "card.yaml", "--data", tmp_path / "plans", "--out", tmp_path / "out"]
    common += ["--adapter", tmp_path / "shared.safetensors", "--set", "candidates=2", "--epochs", "1"]
    summary = run("align", *common)
    assert summary["per_criterion"][0]["patients"] == 1
    assert json.loads((tmp_path / "out" / "align.json").read_text())["train_patients"] == 3
    assert (tmp_path / "out" / "private.safetensors").is_file()


def test_a_folder_of_dicom_needs_its_site_file(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(InputError, match=r"no \*.npz"):
        data_site(tmp_path / "scans")
    (tmp_path / "scans" / "ct").write_bytes(b"")
    with pytest.raises(InputError, match=r"site\.yaml"):
        data_site(tmp_path / "scans")
