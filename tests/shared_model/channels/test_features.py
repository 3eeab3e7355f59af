"""The physics features: they know no side and no dose, and do without any modality."""

from dataclasses import replace

import numpy as np
import pytest

from shared_model.channels.features import FAR_MM, NAMES, physics_features
from shared_model.diffusion.modalities import mirror
from shared_model.patient.case import Case
from simulations.phantom.hospitals import STYLES, phantom_case


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [phantom_case(0, STYLES["balanced_7f"], (24, 24, 24))]


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
