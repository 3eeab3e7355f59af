"""Encoding: norm held in integers, no bias, coarsening equal to one rounding, exact sums in the ring."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import privacy.dp.encoding
from privacy.dp.encoding import (
    FINE,
    Encoding,
    add_fine_integers,
    add_to,
    coarsen,
    encoding,
    euclidean_norm,
    fine_integers,
    from_ring,
    to_ring,
)
from privacy.dp.noise import NoiseStream, integer_gaussian
from shared_model.core.errors import InputError


def squared(whole: np.ndarray) -> int:
    return sum(int(v) ** 2 for v in whole)


@given(st.integers(1, 400), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_integer_norm_is_held(size: int, clip: float, length: float, seed: int) -> None:
    direction = np.random.default_rng(seed).standard_normal(size)
    vector = (direction / np.linalg.norm(direction) * clip * length).astype(np.float32)
    assert squared(fine_integers(vector, clip, NoiseStream())) <= FINE**2


def test_the_norm_is_held_for_many_coordinates_at_the_limit() -> None:
    vector = np.full(2_000_000, 1.0, dtype=np.float32)
    vector /= np.linalg.norm(vector)
    for _ in range(5):
        whole = fine_integers(vector, 1.0, NoiseStream())
        assert int(np.dot(whole, whole)) <= FINE**2
        assert whole.sum() == pytest.approx(vector.sum(dtype=float) * FINE, rel=2e-5)


CHUNK = privacy.dp.encoding._CHUNK


@given(
    st.sampled_from([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3]),
    st.floats(1e-6, 1e6),
    st.sampled_from([1e-3, 0.999999, 1.0, 1.000001, 1e3, 1e30]),
    st.sampled_from(["flat", "spike", "normal", "heavy", "last"]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_the_norm_is_held_and_reached_at_every_size(
    size: int, clip: float, length: float, shape: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spike = np.zeros(size)
    spike[rng.integers(size) if shape == "spike" else -1] = -1.0
    made = {"flat": np.ones(size), "normal": rng.standard_normal(size), "heavy": rng.standard_t(1.0, size)}
    direction = made.get(shape, spike)
    direction /= np.linalg.norm(direction)
    wanted = min(clip * length, 3e38)
    whole = fine_integers((direction * wanted).astype(np.float32), clip, NoiseStream())
    assert int(np.dot(whole, whole)) <= FINE**2
    # Not held by leaving anything out: every number is the clipped one's floor or ceiling, shorter by 1e-4 at most.
    exact = direction * FINE * min(1.0, wanted / clip)
    assert np.abs(whole - exact).max() < 1.0 + 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("too_long", [1.0, 1.001, 1.5])
def test_the_norm_is_held_where_floating_point_fails(too_long: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.dp.encoding, "_room", lambda size: too_long * FINE)
    vector = np.random.default_rng(0).standard_normal(5 * CHUNK + 7).astype(np.float32)
    whole = fine_integers(vector, 1e-3, NoiseStream())
    assert 0 < int(np.dot(whole, whole)) <= FINE**2


def test_numbers_are_added_to_what_is_there() -> None:
    vector = np.arange(-2 * CHUNK, 2 * CHUNK, dtype=np.float32)
    vector *= np.float32(0.5 * FINE / np.linalg.norm(vector))
    clip = float(FINE)  # so that the grid's unit is 1
    total = np.full(vector.size, 2**40, dtype=np.int64)
    add_fine_integers(total, vector, clip, NoiseStream())
    assert np.abs(total - 2**40 - vector).max() <= 1.0


def test_the_norm_of_a_vector_is_finite_where_its_numbers_are() -> None:
    large = np.full(100_000, 3e38, dtype=np.float32)
    assert euclidean_norm(large) == pytest.approx(3e38 * np.sqrt(100_000))
    assert euclidean_norm(np.full(4, 1e-44, dtype=np.float32)) == pytest.approx(2e-44, rel=0.1)
    assert euclidean_norm(np.zeros(3, dtype=np.float32)) == 0.0
    for bad in (np.nan, np.inf, -np.inf):
        large[-1] = bad
        assert not np.isfinite(euclidean_norm(large))
        assert not fine_integers(large, 1.0, NoiseStream()).any()


def test_rounding_is_unbiased() -> None:
    vector = np.array([0.1, -0.1, 0.37, 1e-3, -7.3, 0.0], dtype=np.float32) / FINE
    drawn = np.mean([fine_integers(vector, 1.0, NoiseStream()) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(drawn, vector.astype(float) * FINE, atol=5 * 0.5 / np.sqrt(4000) + 2**-16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_patient_that_is_not_finite_counts_as_zero(bad: float) -> None:
    assert not fine_integers(np.array([1.0, bad], dtype=np.float32), 1.0, NoiseStream()).any()


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=30), st.integers(0, 500))
def test_coarsening_rounds_to_the_nearest_step(values: list[int], half: int) -> None:
    step = 2 * half + 1
    steps = coarsen(np.array(values, dtype=np.int64), step)
    assert all(abs(int(k) * step - v) <= half for k, v in zip(steps, values, strict=True))


@given(st.floats(-1e6, 1e6), st.integers(0, 300))
def test_two_roundings_are_one(value: float, half: int) -> None:
    """What the proof needs of an odd step: rounding to integers first changes nothing (but for ties of measure 0)."""
    step = 2 * half + 1
    once = np.floor(value / step + 0.5)
    edge = (value / step + 0.5) % 1.0
    if 1e-6 < edge < 1 - 1e-6:
        assert coarsen(np.array([int(np.floor(value + 0.5))]), step)[0] == once


def test_an_even_step_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        coarsen(np.array([1]), 4)


@given(
    st.sampled_from([16, 32, 64]),
    st.lists(st.lists(st.integers(-(2**60), 2**60), min_size=3, max_size=3), min_size=1, max_size=9),
)
def test_ring_sums_are_exact_modulo_the_ring(bits: int, vectors: list[list[int]]) -> None:
    total = to_ring(np.zeros(3, dtype=np.int64), bits)
    for vector in vectors:
        add_to(total, to_ring(np.array(vector, dtype=np.int64), bits))
    half = 2 ** (bits - 1)
    expected = [(sum(v[i] for v in vectors) + half) % 2**bits - half for i in range(3)]
    assert from_ring(total).tolist() == expected


def test_the_ring_check_follows_its_formula() -> None:
    # 10 sites, 2,000 patients, z = 1.13, m - t = 8: 16 bits do, 15,000 patients need 32.
    sigma = 1.13 * FINE / np.sqrt(8)
    small = encoding(clip=1.0, sigma_site=sigma, cohort=2000, sites=10)
    assert small.bits == 16
    assert (2000 * FINE + 9 * sigma * np.sqrt(10)) / small.step + 5 < 2**15
    assert small.step <= sigma / 4
    assert (2000 * FINE + 9 * sigma * np.sqrt(10)) / (small.step - 2) + 5 >= 2**15
    assert encoding(clip=1.0, sigma_site=sigma, cohort=15_000, sites=10).bits == 32
    with pytest.raises(InputError, match="do not fit a ring of 16 bits"):
        encoding(clip=1.0, sigma_site=sigma, cohort=15_000, sites=10, bits=16)
    with pytest.raises(InputError, match="quarter of a site's noise"):
        encoding(clip=1.0, sigma_site=2.0, cohort=2000, sites=10)
    with pytest.raises(InputError, match="16, 32, 64"):
        encoding(clip=1.0, sigma_site=sigma, cohort=10, sites=10, bits=8)


@given(st.integers(1, 5000), st.integers(2, 100), st.floats(0.3, 30.0), st.integers(1, 60))
@settings(deadline=None)
def test_the_largest_sum_never_wraps(cohort: int, sites: int, z: float, honest: int) -> None:
    sigma = z * FINE / np.sqrt(honest)
    how = encoding(clip=1.0, sigma_site=sigma, cohort=cohort, sites=sites)
    worst = cohort * FINE + int(9 * sigma * np.sqrt(sites))
    # Each site's rounding adds half a step at most.
    steps = int(worst / how.step + sites / 2)
    assert from_ring(to_ring(np.array([steps, -steps]), how.bits)).tolist() == [steps, -steps]


def test_a_sum_of_releases_decodes_to_the_sum() -> None:
    """Five sites, three patients each: what is decoded is the true sum and noise of the promised size."""
    rng = np.random.default_rng(3)
    d, clip, z, sites, least = 20_000, 0.5, 2.0, 5, 4
    how = encoding(clip=clip, sigma_site=z * FINE / np.sqrt(least), cohort=15, sites=sites)
    true, total = np.zeros(d), None
    for _ in range(sites):
        fine = np.zeros(d, dtype=np.int64)
        for _ in range(3):
            vector = rng.standard_normal(d).astype(np.float32)
            vector *= clip / np.linalg.norm(vector)
            true += vector
            fine += fine_integers(vector, clip, NoiseStream())
        released = how.release(fine, integer_gaussian(how.sigma_site, d, NoiseStream()))
        total = released if total is None else total + released
    assert total is not None
    error = how.decode(total) - true
    expected = z * clip * np.sqrt(sites / least)
    assert error.std() == pytest.approx(expected, rel=0.03)
    assert abs(error.mean()) < 5 * expected / np.sqrt(d)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 1])
def test_a_release_is_the_sum_and_the_noise_coarsened(size: int) -> None:
    rng = np.random.default_rng(size)
    total, noise = rng.integers(-(2**30), 2**30, (2, size))
    how = Encoding(clip=1.0, sigma_site=FINE, step=1601, bits=16)
    assert np.array_equal(how.release(total, noise), to_ring(coarsen(total + noise, 1601), 16))


def test_the_encoding_says_what_it_is() -> None:
    how = Encoding(clip=2.0, sigma_site=FINE, step=1, bits=32)
    assert how.decode(to_ring(np.array([FINE, -FINE]), 32)).tolist() == [2.0, -2.0]
