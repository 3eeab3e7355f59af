"""Fixed-point sums against exact rational arithmetic, order independence, guards."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server.strategy.update_sum import UpdateRejectedError, UpdateSum
from shared_model.core.errors import FedKT3DError, InputError

SITES = st.lists(
    st.tuples(arrays(np.float32, 5, elements=st.floats(-100, 100, width=32)), st.integers(1, 10_000)),
    min_size=1,
    max_size=6,
)


def summed(updates) -> UpdateSum:
    total = UpdateSum(5, 6, 1e9)
    for update, weight in updates:
        total.add(update, weight)
    return total


@given(SITES, st.randoms())
def test_the_sum_is_the_same_to_the_bit_in_any_order(updates, random):
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert summed(updates).mean().tobytes() == summed(shuffled).mean().tobytes()


@given(SITES)
def test_the_mean_is_exact_to_half_a_step(updates):
    total = sum(weight for _, weight in updates)
    mean = summed(updates).mean()
    for i in range(5):
        exact = sum(Fraction(float(update[i])) * weight for update, weight in updates) / total
        # Half a step of 2^-32 from rounding each update, and the last bits of float64 from the division.
        assert abs(Fraction(float(mean[i])) - exact) <= Fraction(1, 2**33) + abs(exact) * Fraction(1, 2**51)


def test_a_vector_longer_than_a_chunk_is_summed_everywhere():
    size = 300_001
    values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    total = UpdateSum(size, 2, 1e9)
    norm = total.add(values, 3)
    total.add(-values[::-1].copy(), 1)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(total.mean(), (3 * exact - exact[::-1]) / 4, rtol=1e-15, atol=2**-33)
    assert norm == pytest.approx(np.linalg.norm(values.astype(np.float64)))


@pytest.mark.parametrize(
    ("update", "weight", "reason"),
    [
        (np.ones(4, np.float32), 1, "wrong_shape"),
        (np.ones((5, 1), np.float32), 1, "wrong_shape"),
        (np.array([0, 0, np.nan, 0, 0], np.float32), 1, "not_finite"),
        (np.array([0, np.inf, 0, 0, 0], np.float32), 1, "not_finite"),
        (np.array([np.inf, -np.inf, 0, 0, 0], np.float32), 1, "not_finite"),
        (np.full(5, 3e38, np.float32), 1, "norm_exceeded"),
        (np.full(5, 50, np.float32), 1, "norm_exceeded"),
        (np.full(5, -40, np.float32), 10_000_000, "norm_exceeded"),
    ],
)
def test_a_bad_update_is_rejected_and_leaves_the_sum_as_it_was(update, weight, reason):
    total = UpdateSum(5, 6, 100.0)
    total.add(np.full(5, 0.5, np.float32), 2)
    with pytest.raises(UpdateRejectedError) as caught:
        total.add(update, weight)
    assert caught.value.reason == reason
    assert (total.mean() == 0.5).all()
    assert (total.weight, total.count) == (2, 1)


@given(st.integers(1, 200), st.integers(1, 1_000_000))
def test_as_many_sites_as_declared_with_the_largest_values_allowed_never_overflow(sites, weight):
    total = UpdateSum(1, sites, 1e30)
    largest = np.float32((2**62 // sites / weight - 1) / 2**32 * (1 - 1e-6))
    for _ in range(sites):
        total.add(np.array([largest]), weight)
    assert total.mean()[0] == pytest.approx(float(largest), rel=1e-9)
    with pytest.raises(FedKT3DError, match="more than"):
        total.add(np.array([largest]), weight)


def test_nothing_to_sum_is_an_error():
    with pytest.raises(FedKT3DError, match="no update"):
        UpdateSum(5, 1, 1.0).mean()
    with pytest.raises(InputError, match="1 or more"):
        UpdateSum(0, 1, 1.0)
