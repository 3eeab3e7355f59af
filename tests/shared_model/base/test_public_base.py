"""The base in few numbers: what phantoms teach, and steps toward what patients add."""

import numpy as np
import pytest

from shared_model.base.linear import columns, design
from shared_model.base.public import exact_correction, learn, pull
from shared_model.channels.features import NAMES


def _patients(count: int, shift: float, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Patients whose dose is a smooth function of two features, and a ``shift`` that phantoms do not have."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        features = rng.standard_normal((300, len(NAMES))).astype(np.float16) * np.float16(20.0)
        ratio = 0.5 + 0.005 * features[:, 0] + shift * (0.1 + 0.004 * features[:, 1])
        found.append((features, ratio.astype(np.float32)))
    return found


def _error(weights: np.ndarray, patients: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([np.abs(design(f) @ weights - r).mean() for f, r in patients]))


def test_exact_correction_and_steps_learn_what_phantoms_lack() -> None:
    real, unseen = _patients(30, 1.0, 1), _patients(5, 1.0, 2)
    base = learn(_patients(20, 0.0, 0), 60)
    reduced = [base.reduce(patient) for patient in real]
    before = _error(base.coefficients(np.zeros(60)), unseen)
    assert base.coefficients(np.zeros(60)).shape == (columns(),)
    assert _error(base.coefficients(exact_correction(reduced)), unseen) < 0.5 * before
    correction, errors = np.zeros(60), [before]
    for _ in range(6):
        correction = correction + 0.3 * np.mean([pull(patient, correction) for patient in reduced], axis=0)
        errors.append(_error(base.coefficients(correction), unseen))
    assert errors[-1] < 0.7 * before
    assert errors[1] < before


def test_a_pull_is_the_negative_gradient() -> None:
    base = learn(_patients(5, 0.0, 0), 7)
    patient = base.reduce(_patients(1, 1.0, 3)[0])
    at = np.random.default_rng(0).standard_normal(7) * 0.01

    def loss(correction: np.ndarray) -> float:
        return float(0.5 * np.square(patient[1].astype(float) - patient[0].astype(float) @ correction).mean())

    numeric = [(loss(at - 1e-5 * e) - loss(at + 1e-5 * e)) / 2e-5 for e in np.eye(7)]
    np.testing.assert_allclose(pull(patient, at), numeric, rtol=1e-3, atol=1e-6)


def test_directions_have_variance_one_on_the_public_patients_and_the_clip_holds_most() -> None:
    public = _patients(20, 0.3, 0)
    base = learn(public, 10)
    reduced = [base.reduce(patient) for patient in public]
    mean_square = np.mean([np.square(rows).mean(0) for rows, _ in reduced], axis=0)
    np.testing.assert_allclose(mean_square, 1.0, rtol=1e-3)
    norms = np.array([np.linalg.norm(pull(patient, np.zeros(10))) for patient in reduced])
    assert (norms <= base.clip).mean() == pytest.approx(0.75, abs=0.06)
