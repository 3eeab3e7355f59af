from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress, TextColumn

from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.adapter.manifest import initial_vector, pack, save_adapter
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import base_gy
from shared_model.diffusion.modalities import example, volumes
from shared_model.forms.interface import Drawing, form_of
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import MODALITIES, Case
from simulations.phantom.hospitals import STYLES, write_hospital
from simulations.settings.commands import evaluate_settings
from simulations.studies.evaluate import evaluate_adapter
from simulations.studies.predict_any import _of_volumes, dice, score_any, score_modality

SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    return write_hospital(tmp_path_factory.mktemp("hospital") / "a", STYLES["balanced_7f"], 3, 1, shape=(32, 32, 32))


@pytest.fixture
def case(site: SiteConfig) -> Case:
    return load_case(site, site.train[0])


def test_dice_of_known_masks() -> None:
    a, b = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1.0
    assert dice(a & ~a, b & ~b) == 1.0
    assert dice(a, a & ~a) == 0.0


def test_a_perfect_prediction_scores_perfectly_and_a_shifted_one_does_not(case: Case) -> None:
    patient = example(case, SHAPE)
    truth = volumes(case, patient.grid)
    assert set(truth) == set(MODALITIES)
    for target, volume in truth.items():
        for (of, measure), value in score_modality(target, volume, case, patient):
            assert value == (1.0 if measure == "Dice" else 0.0), (target, of)
        for (of, measure), value in score_modality(target, volume.roll(4, 2), case, patient):
            assert value < 0.9 if measure == "Dice" else value > 0.01, (target, of)


def test_error_is_taken_inside_the_body(case: Case) -> None:
    patient = example(case, SHAPE)
    truth = volumes(case, patient.grid)
    wrong = torch.where(truth["body"] > 0.5, truth["ct"] + 30.0, truth["ct"] + 999.0)
    assert dict(score_modality("ct", wrong, case, patient)) == {("ct", "MAE (HU)"): pytest.approx(30.0, rel=1e-4)}


def test_the_residual_form_is_scored_as_dose(site: SiteConfig) -> None:
    """A network that says zero, which one step from noise takes for the clean residual, has the base's own error."""
    spec = ModelSpec(prior="none", shape=SHAPE, precision="fp32", base="phantom")
    model = adapted_model(spec)
    with torch.no_grad():
        for parameter in model.network.head.parameters():
            parameter.zero_()
    found = score_any([site], spec, pack(model), Drawing(), candidates=1, seed=0)
    case = load_case(site, site.validation[0])
    patient = example(case, SHAPE)
    alone = volumes(replace(case, dose_gy=base_gy(case, spec, model)), patient.grid)["dose"]
    expected = dict(score_modality("dose", alone, case, patient))
    assert found["dose", "dose", "MAE (Gy)"] == pytest.approx(list(expected.values()), rel=1e-4)


def test_evaluate_targets_all_writes_the_table(site: SiteConfig, tmp_path: Path) -> None:
    spec = ModelSpec(prior="none", shape=SHAPE)
    save_adapter(tmp_path / "a.safetensors", spec, initial_vector(spec).astype(np.float32))
    screen = evaluate_adapter(
        evaluate_settings([f"adapter={tmp_path / 'a.safetensors'}", "targets=all", "data.sites=1", "data.patients=3",
                           f"data.root={tmp_path / 'data'}", f"out={tmp_path}"]),
        Progress(TextColumn("{task.fields[note]}"), disable=True),
    )  # fmt: skip
    table = (tmp_path / "predict_any.md").read_text()
    assert table in screen
    for word in ("| dose | dose | MAE (Gy) | 1 |", "| ct | ct | MAE (HU)", "| ptv | targets | Dice",
                 "| body | body | Dice", "| oar | ", "| beam |", "| angle |"):  # fmt: skip
        assert word in table
    assert (tmp_path / "predict_any.csv").read_text().startswith("target,of,measure,patients,mean,sd\n")


def test_a_pyramids_modalities_are_scored_on_the_patients_own_voxels(case: Case) -> None:
    """The patient's own volumes score perfectly, and wrong ones do not."""
    spec = ModelSpec(network="pyramid", prior="none")
    form = form_of(spec)
    patient = form.encode(case)
    found = dict(_of_volumes(patient, case, lambda target: form.clean(patient, target)))
    assert {target for target, _, _ in found} == set(MODALITIES)
    for (target, of, measure), value in found.items():
        assert value == pytest.approx(1.0 if measure == "Dice" else 0.0, abs=0.06), (target, of)
    wrong = dict(_of_volumes(patient, case, lambda target: form.clean(patient, target).roll(6, -1)))
    assert all(abs(value - found[key]) > 0.05 for key, value in wrong.items() if key[0] in ("dose", "ptv", "oar"))


def test_score_any_of_a_pyramid(site: SiteConfig) -> None:
    spec = ModelSpec(network="pyramid", prior="none")
    scores = score_any([site], spec, initial_vector(spec), Drawing(), candidates=1, seed=0)
    assert {target for target, _, _ in scores} == set(MODALITIES)
    assert all(len(values) == 1 for values in scores.values())
