import numpy as np
import pytest
import torch
from scipy import stats

from privacy.dp.clipping import clip_to_norm, flatten_gradient
from privacy.dp.noise import NoiseStream
from privacy.dp.release import poisson_sample
from shared_model.core.errors import InputError


def test_each_patient_takes_part_by_himself() -> None:
    draws = np.zeros((4000, 6), dtype=bool)
    for row in draws:
        row[poisson_sample(6, 0.3, NoiseStream())] = True
    counts = np.bincount(draws.sum(1), minlength=7)
    expected = 4000 * stats.binom.pmf(np.arange(7), 6, 0.3)
    assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), 6) > 1e-5
    assert np.abs(np.corrcoef(draws.T) - np.eye(6)).max() < 5 / np.sqrt(4000)


def test_all_patients_at_q_one_and_none_is_an_answer() -> None:
    assert poisson_sample(5, 1.0, NoiseStream()).tolist() == [0, 1, 2, 3, 4]
    assert poisson_sample(3, 1e-12, NoiseStream()).size == 0


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, float("nan")])
def test_no_probability(q: float) -> None:
    with pytest.raises(InputError, match="q="):
        poisson_sample(3, q, NoiseStream())


def test_clipping_is_by_patient_over_all_parameters() -> None:
    parts = [torch.full((3, 2), 2.0), None, torch.full((2,), -2.0)]
    gradient = flatten_gradient(parts, [6, 4, 2])
    assert gradient.tolist() == [2.0] * 6 + [0.0] * 4 + [-2.0] * 2
    np.testing.assert_allclose(clip_to_norm(gradient, 1.0), gradient / np.sqrt(8 * 4), rtol=1e-6)
    assert torch.equal(clip_to_norm(gradient, 100.0), gradient)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad: float) -> None:
    assert not clip_to_norm(torch.tensor([1.0, bad]), 1.0).any()
