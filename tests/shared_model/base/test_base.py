"""The closed-form base: its features know no side, its sums no order, and residuals come back as dose."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_model.adapter.manifest import base_hash, initial_vector, load_adapter, manifest_hash, save_adapter
from shared_model.adapter.shared import adapted_model
from shared_model.base import ridge as base
from shared_model.base.interface import base_of
from shared_model.channels.features import FAR_MM, NAMES, physics_features
from shared_model.core.errors import InputError
from shared_model.diffusion.latents import RESIDUAL
from shared_model.diffusion.modalities import HAAR, dose_gy, example, mirror, volumes
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Resampler, masked_average
from shared_model.prediction.predictor import predict_dose
from simulations.phantom.hospitals import STYLES, phantom_case

FOURIER = 20
SPEC = ModelSpec(prior="none", shape=(16, 16, 16), base="ridge", base_fourier=FOURIER, precision="fp32")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    styles = ("balanced_7f", "openkbp_like")
    return [phantom_case(seed, STYLES[styles[seed % 2]], (24, 24, 24)) for seed in range(4)]


@pytest.fixture(scope="module")
def solution(cases: list[Case]) -> base.Solution:
    return base.solve(sums(cases), FOURIER)


def sums(cases: list[Case]) -> base.Sums:
    return sum(base.patient_sums(c, physics_features(c), FOURIER) for c in cases)  # type: ignore[return-value]


def test_features_of_a_mirrored_case_are_the_mirrored_features(cases: list[Case]) -> None:
    case = cases[0]
    plain, mirrored = (np.zeros((*case.grid.shape, len(NAMES)), np.float16) for _ in range(2))
    plain[case.body] = physics_features(case)
    other = mirror(case)
    mirrored[other.body] = physics_features(other)
    np.testing.assert_allclose(mirrored[:, :, ::-1], plain, atol=2e-3, rtol=2e-3)
    idle = {
        name for name, spread in zip(NAMES, np.ptp(plain[case.body].astype(float), axis=0), strict=True) if spread == 0
    }
    assert idle == {"middle_mm", "high_lcc", "middle_lcc", "low_lcc"}, "no middle target; volumes belong to the patient"


def test_features_see_no_dose_and_do_without_any_modality(cases: list[Case]) -> None:
    case = cases[0]
    np.testing.assert_array_equal(physics_features(replace(case, dose_gy=None)), physics_features(case))
    bare = replace(case, structures={}, prescriptions_gy={}, ct_hu=None, beam_plate=None, angle_plate=None)
    features = physics_features(bare)
    assert features.shape == (case.body.sum(), len(NAMES))
    assert np.isfinite(features).all()
    assert (features[:, NAMES.index("target_mm")] == FAR_MM).all()
    for name in ("ct_hu", "beam_plate"):
        assert np.isfinite(physics_features(replace(case, **{name: None}))).all()


def test_distances_are_in_millimetres(cases: list[Case]) -> None:
    case = cases[0]
    features = physics_features(case)
    index = np.argwhere(case.body) * np.array(case.grid.spacing_mm)
    target = np.any([case.structures[name] for name in case.targets], axis=0)
    inside = np.argwhere(target) * np.array(case.grid.spacing_mm)
    outside = np.flatnonzero(~target[case.body])[::97]
    wanted = [min(FAR_MM, np.linalg.norm(inside - index[i], axis=1).min()) for i in outside]
    np.testing.assert_allclose(features[outside, NAMES.index("target_mm")].astype(float), wanted, rtol=2e-3)


def test_sums_of_sites_are_the_pooled_sums_to_the_bit_and_solve_the_pooled_ridge_regression(cases: list[Case]) -> None:
    pooled = sums(cases)
    assert (sums(cases[3:]) + sums(cases[1:3]) + sums(cases[:1])).tobytes() == pooled.tobytes()
    found = base.solve(pooled, FOURIER)
    rows, dose = [], []
    for case in cases:
        features = physics_features(case)
        n = len(features)
        chosen = np.random.RandomState(n).permutation(n)[: base.VOXELS_PER_PATIENT]
        weight = (len(chosen) * len(cases)) ** -0.5
        rows.append(weight * base.design(features[chosen], FOURIER).astype(np.float64))
        highest = max(case.prescriptions_gy.values())
        dose.append(weight * case.dose_gy[case.body][chosen] / highest)
    penalty = base.PENALTY**0.5 * np.eye(base.columns(FOURIER))
    x, y = np.concatenate([*rows, penalty]), np.concatenate([*dose, np.zeros(len(penalty))])
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(found.weights, expected, atol=2e-6)
    residual = np.concatenate(rows) @ expected - np.concatenate(dose)
    assert found.residual == pytest.approx(np.linalg.norm(residual), rel=1e-4)
    assert found.patients == len(cases)


def test_a_patient_without_targets_counts_for_nothing(cases: list[Case]) -> None:
    bare = replace(cases[0], structures={}, prescriptions_gy={})
    assert not base.patient_sums(bare, physics_features(bare), 0).any()
    assert not base.predict(bare, physics_features(bare), np.ones(base.columns(0), np.float32), 0).any()
    with pytest.raises(InputError, match="no patient"):
        base.solve(np.zeros(base.sums_size(0), np.int64), 0)
    with pytest.raises(InputError, match="no dose"):
        base.patient_sums(replace(cases[0], dose_gy=None), physics_features(cases[0]), 0)


def test_sums_that_no_patient_can_have_are_refused(cases: list[Case]) -> None:
    good = sums(cases)
    base.check_sums(good, 4, FOURIER)
    huge, crowd = good.copy(), good.copy()
    huge[0] = 2**60
    crowd[-1] = 5
    for bad, words in ((good[1:], "whole numbers"), (huge, "larger"), (crowd, "more patients")):
        with pytest.raises(InputError, match=words):
            base.check_sums(bad, 4, FOURIER)


def test_the_largest_row_stays_below_the_bound() -> None:
    extreme = np.array([np.full(len(NAMES), s * 6e4) for s in (-1, 1)], np.float16)
    assert np.square(base.design(extreme, 5)).max() < base.PRODUCT_BOUND


def test_the_base_is_nearer_to_the_dose_than_its_mean(cases: list[Case], solution: base.Solution) -> None:
    for case in cases:
        predicted = base.predict(case, physics_features(case), solution.weights, FOURIER)
        dose = case.dose_gy[case.body]
        assert np.abs(predicted[case.body] - dose).mean() < 0.5 * np.abs(dose - dose.mean()).mean()
        assert predicted.min() >= 0
        assert not predicted[~case.body].any()


def test_base_plus_residual_is_the_dose(cases: list[Case], solution: base.Solution) -> None:
    case = cases[0]
    spec = base.with_weights(SPEC, solution.weights)
    found = base_of(spec).dose(case, physics_features(case), b"")
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


def test_a_perfect_residual_of_zero_predicts_the_base(cases: list[Case], solution: base.Solution) -> None:
    found = base_of(base.with_weights(SPEC, solution.weights)).dose(cases[0], physics_features(cases[0]), b"")
    patient = example(cases[0], SPEC.shape, base_gy=found)
    again = dose_gy(torch.zeros(SPEC.shape), cases[0], patient.grid, base_gy=found)
    torch.testing.assert_close(again, torch.from_numpy(found))


def test_prediction_uses_the_base_with_any_modality_missing(cases: list[Case], solution: base.Solution) -> None:
    spec = base.with_weights(SPEC, solution.weights)
    model = adapted_model(spec).eval()
    bare = replace(cases[0], structures={}, prescriptions_gy={}, ct_hu=None, beam_plate=None, dose_gy=None)
    for case in (cases[0], replace(cases[0], ct_hu=None), bare):
        given = base_of(spec).dose(case, physics_features(case), b"")
        dose = predict_dose(model, case, spec, candidates=2)
        torch.testing.assert_close(dose, predict_dose(model, case, spec, candidates=2, base=given))
        assert float(dose.min()) >= 0
        assert not dose[~torch.from_numpy(case.body)].any()


def test_coefficients_travel_in_the_adapter_file(tmp_path, solution: base.Solution) -> None:
    spec = base.with_weights(SPEC, solution.weights)
    path = tmp_path / "a.safetensors"
    save_adapter(path, spec, initial_vector(spec))
    assert load_adapter(path)[0] == spec
    assert spec.base_weights.encode() not in path.read_bytes(), "as a tensor, not as text"
    assert ModelSpec.from_json(spec.to_json()) == spec
    content = bytearray(path.read_bytes())
    content[content.index(solution.weights.tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_adapter(path)


def test_hash_tells_bases_apart_and_the_papers_form_is_as_before(solution: base.Solution) -> None:
    one, other = base.with_weights(SPEC, solution.weights), base.with_weights(SPEC, 2 * solution.weights)
    assert len({manifest_hash(s) for s in (SPEC, one, other, replace(SPEC, base="none"))}) == 4
    assert base_hash(ModelSpec()) == "none"
    assert "base" not in ModelSpec().to_json()
    np.testing.assert_array_equal(base.weights_of(one), solution.weights)


@pytest.mark.parametrize(
    "changes",
    [{"base": "lasso"}, {"base_fourier": 9999}, {"base_fourier": -1}, {"base": "none", "base_weights": "AAAA"}],
)
def test_bad_bases_are_refused(changes) -> None:
    with pytest.raises(InputError, match=r"model\.base"):
        replace(SPEC, **changes)


def test_missing_or_wrong_coefficients_are_refused(cases: list[Case]) -> None:
    with pytest.raises(InputError, match="no coefficients"):
        base_of(SPEC).dose(cases[0], physics_features(cases[0]), b"")
    for text in ("AAAA", "not base64", base.with_weights(SPEC, np.full(base.columns(FOURIER), np.nan)).base_weights):
        with pytest.raises(InputError, match="base_weights"):
            manifest_hash(replace(SPEC, base_weights=text))
