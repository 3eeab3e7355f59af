"""The base in few numbers: exact where nothing is hidden, and no worse than the public one where all is noise."""

import numpy as np
import pytest

from shared_model.base import columns, design
from shared_model.base_features import NAMES
from shared_model.public_base import PublicBase, learn


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
    return float(np.mean([np.abs(design(f, 0) @ weights - r).mean() for f, r in patients]))


def test_the_correction_is_learned_from_the_sums_alone() -> None:
    public, real, unseen = _patients(20, 0.0, 0), _patients(30, 1.0, 1), _patients(5, 1.0, 2)
    base = learn(public, 60)
    mean = np.mean([base.sums(*one) for one in real], axis=0)
    assert base.sums(*real[0]).shape == (base.size,) == (60 * 61 // 2 + 60,)
    assert _error(base.coefficients(mean, 0.0), unseen) < 0.5 * _error(base.weights, unseen)
    assert base.coefficients(mean, 0.0).shape == (columns(0),)


def test_directions_have_variance_one_on_the_public_patients_and_the_clip_holds_most() -> None:
    public = _patients(20, 0.0, 0)
    base = learn(public, 10)
    vectors = np.stack([base.sums(*one) for one in public])
    diagonal = [i * 10 - i * (i - 1) // 2 for i in range(10)]
    np.testing.assert_allclose(vectors.mean(0)[diagonal], 1.0, rtol=1e-3)
    assert (np.linalg.norm(vectors, axis=1) <= base.clip).mean() == pytest.approx(0.75, abs=0.06)


def test_the_norm_of_the_numbers_is_that_of_the_matrix() -> None:
    public = _patients(5, 0.0, 0)
    base = learn(public, 7)
    features, ratio = public[0]
    rows = design(features, 0).astype(float)
    small, residual = rows @ base.directions, ratio - rows @ base.weights
    gram, product = small.T @ small / len(rows), small.T @ residual / len(rows)
    expected = np.sqrt((gram**2).sum() + (product**2).sum())
    assert np.linalg.norm(base.sums(features, ratio)) == pytest.approx(expected, rel=1e-5)


def test_great_noise_leaves_what_phantoms_taught() -> None:
    public, unseen = _patients(20, 0.0, 0), _patients(5, 0.0, 2)
    base = learn(public, 12)
    rng = np.random.default_rng(0)
    noisy = np.mean([base.sums(*one) for one in public], axis=0) + 3.0 * rng.standard_normal(base.size)
    careful, careless = base.coefficients(noisy, 3.0), base.coefficients(noisy, 0.0)
    assert _error(careful, unseen) < 0.2 * _error(careless, unseen)
    assert isinstance(base, PublicBase)
