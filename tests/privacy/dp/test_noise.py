"""The sampler against exact distributions, and that nothing but the operating system keys it."""

import itertools
import os
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.dp.noise import _LEFT, NoiseStream, _integer_weights, _levels, _table, integer_gaussian
from shared_model.core.errors import InputError

# A false alarm once in 10^5 runs of a test.
ALARM = 1e-5


def exact(sigma: float, k: np.ndarray) -> np.ndarray:
    return stats.norm.cdf((k + 0.5) / sigma) - stats.norm.cdf((k - 0.5) / sigma)


@pytest.mark.parametrize("sigma", [1.0, 3.7, 8.0, 100.0])
def test_chi_square_against_the_rounded_gaussian(sigma: float) -> None:
    n, reach = 400_000, int(3 * sigma)
    drawn = integer_gaussian(sigma, n, NoiseStream())
    k = np.arange(-reach, reach + 1)
    observed = np.bincount(drawn[np.abs(drawn) <= reach] + reach, minlength=k.size)
    expected = n * exact(sigma, k)
    rest = (n - observed.sum() - (n - expected.sum())) ** 2 / (n - expected.sum())
    chi = ((observed - expected) ** 2 / expected).sum() + rest
    assert stats.chi2.sf(chi, k.size) > ALARM


@pytest.mark.parametrize("sigma", [200.0, 400.0, 5_000.0, 642_000.0, 3e9])
def test_large_sigmas_follow_the_gaussian(sigma: float) -> None:
    drawn = integer_gaussian(sigma, 300_000, NoiseStream())
    assert stats.kstest(drawn / sigma, "norm").pvalue > ALARM
    assert abs(stats.kurtosis(drawn.astype(float))) < 6 * np.sqrt(24 / drawn.size)


@pytest.mark.parametrize("sigma", [1.0, 8.0, 320.0, 321.0, 104_732.0])
def test_variance_is_never_below_that_of_the_gaussian(sigma: float) -> None:
    n = 1_000_000
    drawn = integer_gaussian(sigma, n, NoiseStream()).astype(float)
    coarsest = 2.0 ** _levels(sigma)[0][0]
    least, most = sigma**2 + 1 / 12, sigma**2 + coarsest**2 / 8
    spread = 4.5 * np.sqrt(2 / n)
    assert least * (1 - spread) < (drawn**2).mean() < most * (1 + spread)
    assert abs(drawn.mean()) < 4.5 * sigma / np.sqrt(n) + 1e-9


def test_neighbouring_coordinates_are_independent() -> None:
    drawn = integer_gaussian(1000.0, 400_001, NoiseStream()) / 1000.0
    for lag in (1, 2, 7):
        assert abs((drawn[:-lag] * drawn[lag:]).mean()) < 5 / np.sqrt(drawn.size)


def test_every_bit_of_the_finest_level_is_drawn() -> None:
    drawn = integer_gaussian(100_000.0, 200_000, NoiseStream())
    for bit in range(8):
        share = ((drawn >> bit) & 1).mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(drawn.size), bit


@pytest.mark.parametrize("sigma", [1.0, 4.0, 77.7, 320.0])
def test_alias_weights_are_the_probabilities_to_64_bits(sigma: float) -> None:
    weights, centre = _integer_weights(sigma)
    total = len(weights) * 2**64
    assert sum(weights) == total
    k = np.arange(-5, 6)
    probabilities = np.array([weights[centre + i] / total for i in k])
    np.testing.assert_allclose(probabilities, exact(sigma, k), rtol=1e-9)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 16.0, 128.0, 255.9, 320.0])
def test_cells_and_columns_hold_the_weights(sigma: float) -> None:
    """The law of the table as it is drawn from, in exact fractions: as near to the weights as its assertion says."""
    weights, centre = _integer_weights(sigma)
    table, columns = _table(sigma), len(weights)
    values, cells = np.unique(table._cells, return_counts=True)
    share = dict(zip(values.tolist(), cells.tolist(), strict=True))
    left = Fraction(share.pop(_LEFT), 2**16)
    law = {k: Fraction(cells, 2**16) for k, cells in share.items()}
    for column, (threshold, alias) in enumerate(zip(table._thresholds.tolist(), table._aliases.tolist(), strict=True)):
        keep = Fraction(threshold, 2**64)
        for index, chance in ((column, keep), (alias, 1 - keep)):
            law[index - centre] = law.get(index - centre, Fraction(0)) + left * chance / columns
    assert sum(law.values()) == 1
    wrong = sum(abs(law.pop(i - centre, Fraction(0)) - Fraction(w, columns * 2**64)) for i, w in enumerate(weights))
    assert not law
    assert wrong / 2 <= Fraction(1, 10 * 2**65)


@pytest.mark.parametrize("sigma", [321.0, 1e4, 1e6, 2.0**39])
def test_levels_add_up_to_sigma_and_smooth_each_other(sigma: float) -> None:
    levels = _levels(sigma)
    assert sum(4.0**k * s * s for k, s in levels) == pytest.approx(sigma**2, rel=1e-12)
    for (coarse, _), (fine, s) in itertools.pairwise(levels):
        finer = sum(4.0**k * part**2 for k, part in levels if k <= fine)
        assert finer >= (4.0 * 2**coarse) ** 2 * (1 - 1e-9)
        assert s >= 4.0


def test_no_seed_reaches_the_noise() -> None:
    def drawn() -> bytes:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return integer_gaussian(50.0, 64, NoiseStream()).tobytes()

    assert drawn() != drawn()


def test_a_forked_process_cannot_repeat_the_stream() -> None:
    stream = NoiseStream()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stream.uint64(1)
            answer = b"drawn"
        except RuntimeError:
            answer = b"refused"
        os.write(writer, answer)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 16) == b"refused"


@pytest.mark.parametrize("sigma", [0.0, 0.5, float("nan"), float("inf"), 2.0**41])
def test_sigma_out_of_range(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma"):
        integer_gaussian(sigma, 3, NoiseStream())
