"""The residual form: what the network learns is dose minus base, and comes back as dose. Which bases there are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from shared_model.adapter.manifest import base_hash, load_adapter, manifest_hash
from shared_model.adapter.shared import adapted_model
from shared_model.base import linear
from shared_model.base.interface import base_of
from shared_model.base.model import base_weights
from shared_model.channels.features import physics_features
from shared_model.core.errors import InputError
from shared_model.diffusion.latents import RESIDUAL
from shared_model.diffusion.modalities import HAAR, dose_gy, example, volumes
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume
from shared_model.patient.geometry import Resampler, masked_average
from shared_model.prediction.predictor import predict_dose
from simulations.phantom.hospitals import STYLES, phantom_case

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), base="phantom", precision="fp32")
MODEL = adapted_model(SPEC).eval()


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    styles = ("balanced_7f", "openkbp_like")
    return [phantom_case(seed, STYLES[styles[seed % 2]], (24, 24, 24)) for seed in range(2)]


def dose_of_base(case: Case) -> Volume:
    found = base_of(SPEC).dose(case, physics_features(case), base_weights(MODEL))
    assert found is not None
    return found


def test_a_patient_without_targets_has_no_dose(cases: list[Case]) -> None:
    bare = replace(cases[0], structures={}, prescriptions_gy={})
    assert not linear.predict(bare, physics_features(bare), np.ones(linear.columns(), np.float32)).any()


def test_the_base_is_nearer_to_the_dose_than_its_mean(cases: list[Case]) -> None:
    for case in cases:
        predicted, dose = dose_of_base(case), case.dose_gy[case.body]
        assert np.abs(predicted[case.body] - dose).mean() < 0.5 * np.abs(dose - dose.mean()).mean()
        assert predicted.min() >= 0
        assert not predicted[~case.body].any()


def test_base_plus_residual_is_the_dose(cases: list[Case]) -> None:
    case = cases[0]
    found = dose_of_base(case)
    patient = example(case, case.grid.shape, base_gy=found)
    to = Resampler(case.grid, patient.grid)
    body = torch.from_numpy(case.body.astype(np.float32))
    learned = volumes(case, patient.grid, found)["dose"]
    assert learned.min() < -0.5, "some residuals are negative"
    wanted = masked_average(torch.from_numpy(case.dose_gy), body, to) - masked_average(
        torch.from_numpy(found), body, to
    )
    torch.testing.assert_close(learned, wanted, atol=1e-4, rtol=0)
    mean, sd = HAAR.scale[RESIDUAL]
    restored = dose_gy((learned - mean) / sd, case, patient.grid, base_gy=found)
    error = (restored - torch.from_numpy(case.dose_gy)).abs()[torch.from_numpy(case.body)]
    assert error.mean() < 0.6
    far_below = dose_gy(torch.full_like(learned, -1000.0), case, patient.grid, base_gy=found)
    assert float(far_below.abs().max()) == 0, "clamped after the base is added"


def test_a_perfect_residual_of_zero_predicts_the_base(cases: list[Case]) -> None:
    found = dose_of_base(cases[0])
    patient = example(cases[0], SPEC.shape, base_gy=found)
    again = dose_gy(torch.zeros(SPEC.shape), cases[0], patient.grid, base_gy=found)
    torch.testing.assert_close(again, torch.from_numpy(found))


def test_prediction_uses_the_base_with_any_modality_missing(cases: list[Case]) -> None:
    bare = replace(cases[0], structures={}, prescriptions_gy={}, ct_hu=None, beam_plate=None, dose_gy=None)
    for case in (cases[0], replace(cases[0], ct_hu=None), bare):
        dose = predict_dose(MODEL, case, SPEC, candidates=2)
        given = predict_dose(MODEL, case, SPEC, candidates=2, base=dose_of_base(case))
        torch.testing.assert_close(dose, given)
        assert float(dose.min()) >= 0
        assert not dose[~torch.from_numpy(case.body)].any()


def test_hash_tells_bases_apart_and_the_papers_form_is_as_before() -> None:
    assert manifest_hash(SPEC) != manifest_hash(replace(SPEC, base="none"))
    assert base_hash(ModelSpec()) == "none"
    assert "base" not in ModelSpec().to_json()


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.base"):
        replace(SPEC, base="lasso")


# Specifications as earlier versions wrote them into adapters of bases that are gone since.
RIDGE = '{"adapter":"full","alpha":16,"base":"ridge","base_fourier":500,"base_weights":"","init_seed":0,"rank":16}'
VOXEL = '{"adapter":"base","alpha":16,"base":"voxel","init_seed":0,"precision":"bf16","prior":"video-small","rank":16}'


@pytest.mark.parametrize("text", [RIDGE, VOXEL])
def test_an_adapter_of_a_base_that_is_gone_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.safetensors"
    weights = {"voxel.layers.0.weight": np.zeros((2, 3), np.float32), "base.weights": np.zeros(3, np.float32)}
    header = {"format": "fedkt3d-adapter/1", "spec": text, "manifest": "0" * 64, "prior": "none:0", "base": "none"}
    save_file(weights, path, metadata=header)
    with pytest.raises(InputError, match=r"old\.safetensors: model\.base=(ridge|voxel): this base .* earlier version"):
        load_adapter(path)
