"""Exact sums: fixed-point numbers, weights and means that add up in a ring as they do without one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.dp.encoding import add_to
from privacy.secagg.exact_sums import FINE_ENOUGH, MaskTerms
from shared_model.core.fields import MessageError

TERMS = MaskTerms(sites=4, survivors=3, colluders=1, cohort=40, weighting="patients", bound=5.0)
NAMES = ("loss", "dose_score_gy")


def summed(terms: MaskTerms, parts: list[tuple[np.ndarray, int, dict[str, float]]]):
    rings = [terms.encode(update, patients, means, NAMES) for update, patients, means in parts]
    total = rings[0].copy()
    for ring in rings[1:]:
        add_to(total, ring)
    return terms.decode(total, parts[0][0].size, NAMES)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_sum_is_the_weighted_mean_up_to_the_stated_rounding(data: st.DataObject) -> None:
    sites = data.draw(st.integers(1, 4))
    weighting, bits = data.draw(st.sampled_from(["patients", "equal"])), data.draw(st.sampled_from([0, 32, 64]))
    terms = replace(TERMS, weighting=weighting, bits=bits, bound=data.draw(st.sampled_from([1e-3, 5.0, 1e4])))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    parts = []
    for _ in range(sites):
        update = generator.normal(size=17).astype(np.float32)
        # Also at the bound, in one number: the most that the ring must hold.
        if data.draw(st.booleans()):
            update = np.sign(generator.normal()) * np.eye(17, dtype=np.float32)[3]
        update = (update * (terms.bound * generator.uniform(0.2, 1.0) / np.linalg.norm(update))).astype(np.float32)
        parts.append((update, int(generator.integers(1, 11)), {"loss": float(generator.normal())}))
    found = summed(terms, parts)
    weights = [terms.weight(patients) for _, patients, _ in parts]
    assert found.weight == sum(weights)
    mean = sum(w * u.astype(np.float64) for w, (u, _, _) in zip(weights, parts, strict=True)) / sum(weights)
    # ``error`` is for the whole cohort; rounding counts for more where fewer patients take part.
    limit = terms.error * terms.most_weight / sum(weights) + 1e-6 * terms.bound * 2**-20
    assert np.abs(found.weighted / found.weight - mean).max() <= limit
    loss = sum(w * m["loss"] for w, (_, _, m) in zip(weights, parts, strict=True)) / sum(weights)
    assert found.means == {"loss": pytest.approx(loss, abs=2**-20)}


def test_a_long_update_is_shortened_to_the_bound() -> None:
    update = np.full(16, 3.0, np.float32)
    found = summed(TERMS, [(update, 2, {})])
    assert np.linalg.norm(found.weighted / found.weight) == pytest.approx(5.0, rel=1e-6)


def test_a_mean_that_a_site_withholds_does_not_count() -> None:
    zero = np.zeros(3, np.float32)
    parts = [(zero, 5, {"loss": 1.0}), (zero, 20, {}), (zero, 15, {"loss": math.nan, "dose_score_gy": -2.5e5})]
    found = summed(TERMS, parts)
    assert found.weight == 40
    assert found.means == {"loss": 1.0, "dose_score_gy": -2.5e5}


def test_the_smallest_ring_that_is_fine_enough_is_taken() -> None:
    assert TERMS.ring_bits == 32
    assert TERMS.error <= FINE_ENOUGH
    wide = replace(TERMS, bound=1e4)
    assert wide.ring_bits == 64
    assert replace(wide, bits=32).error > FINE_ENOUGH
    largest = TERMS.most_weight * TERMS.bound / TERMS.step + TERMS.sites / 2
    assert 2**30 < largest < 2**31


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(MessageError, match="not finite"):
        TERMS.encode(np.array([1.0, np.inf], np.float32), 1, {}, NAMES)
    for wrong in ({"survivors": 5}, {"colluders": 3}, {"bits": 16}, {"weighting": "size"}, {"bound": 0.0}):
        with pytest.raises(MessageError):
            replace(TERMS, **wrong)
    ring = TERMS.encode(np.zeros(3, np.float32), 1, {}, NAMES)
    with pytest.raises(MessageError, match="masked sum"):
        TERMS.decode(ring, 4, NAMES)
    assert MaskTerms.from_json(TERMS.to_json()) == TERMS
    with pytest.raises(MessageError):
        MaskTerms.from_json('{"sites":4}')
