"""Rules that join updates, each against a slow oracle over single numbers or whole matrices."""

from __future__ import annotations

import itertools
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server.strategy.choose import Joining
from server.strategy.interface import UpdateRule
from server.strategy.lora_product import LoraProduct
from server.strategy.trimmed_mean import TrimmedMean
from server.strategy.update_sum import UpdateRejectedError, UpdateSum
from shared_model.adapter.factors import Factors, find_factors
from shared_model.core.errors import FedKT3DError
from tests.builders.run_config import aggregate_config

UPDATES = st.lists(arrays(np.float32, 4, elements=st.floats(-100, 100, width=32)), min_size=1, max_size=9)
LAYOUT = (("x.lora_A.shared.weight", (2, 5)), ("x.lora_B.shared.weight", (4, 2)), ("bias", (3,)))


def joined(rule: UpdateRule, updates: list[np.ndarray], weight: int = 1) -> np.ndarray:
    for update in updates:
        rule.add(update, weight)
    return rule.mean()


@given(UPDATES, st.floats(0.0, 0.5))
def test_the_trimmed_mean_of_each_number(updates: list[np.ndarray], share: float) -> None:
    found = joined(TrimmedMean(4, share, 1e9), updates)
    for at in range(4):
        values = sorted(float(update[at]) for update in updates)
        for _ in range(min(int(share * len(updates) + 1e-9), (len(updates) - 1) // 2)):
            values = values[1:-1]
        assert found[at] == pytest.approx(sum(values) / len(values), rel=1e-12, abs=1e-12)


@given(UPDATES)
def test_half_trimmed_is_the_median_in_any_order(updates: list[np.ndarray]) -> None:
    found = joined(TrimmedMean(4, 0.5, 1e9), updates)
    assert found.tolist() == pytest.approx([median(float(u[at]) for u in updates) for at in range(4)], rel=1e-12)
    assert joined(TrimmedMean(4, 0.5, 1e9), updates[::-1]).tobytes() == found.tobytes()


def test_two_hostile_sites_of_nine_move_the_trimmed_mean_no_further_than_the_honest_ones_lie_apart() -> None:
    random = np.random.default_rng(0)
    honest = [random.normal(0, 1, 70_000).astype(np.float32) for _ in range(7)]
    hostile = [np.full(70_000, 1e4, np.float32), np.full(70_000, -1e6, np.float32)]
    found = joined(TrimmedMean(70_000, 0.25, 1e12), [*hostile, *honest])
    assert (found >= np.min(honest, axis=0)).all()
    assert (found <= np.max(honest, axis=0)).all()


def pair() -> tuple[Factors, ...]:
    return find_factors(LAYOUT)


def drawn(seed: int, sites: int) -> tuple[np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    start = random.normal(0, 1, 21).astype(np.float32)
    return start, [random.normal(0, 0.3, 21).astype(np.float32) for _ in range(sites)]


def product(vector: np.ndarray) -> np.ndarray:
    a, b = vector[:10].reshape(2, 5), vector[10:18].reshape(4, 2)
    return np.asarray(b @ a)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_products_nearest_of_the_same_rank(seed: int, sites: int) -> None:
    start, updates = drawn(seed, sites)
    weights = list(range(1, sites + 1))
    rule = LoraProduct(start, pair(), 1e9)
    for update, weight in zip(updates, weights, strict=True):
        rule.add(update, weight)
    after = start + rule.mean()
    whole = sum(w * product(start.astype(np.float64) + u) for u, w in zip(updates, weights, strict=True)) / sum(weights)
    u, s, vh = np.linalg.svd(whole)
    nearest = (u[:, :2] * s[:2]) @ vh[:2]
    np.testing.assert_allclose(product(after), nearest, atol=1e-9)
    others = sum(w * u[18:].astype(np.float64) for u, w in zip(updates, weights, strict=True)) / sum(weights)
    np.testing.assert_allclose(after[18:] - start[18:].astype(np.float64), others, atol=1e-12)


def test_a_direction_without_a_product_can_still_be_learned() -> None:
    """As LoRA starts, B is 0: then A stays what it was on average, or neither would ever get a gradient again."""
    start, updates = drawn(7, 3)
    start[10:18] = 0.0
    for update in updates:
        update[10:18] = 0.0
    updates[0][10:18:2] = 1.0  # one of two columns of B
    after = start + joined(LoraProduct(start, pair(), 1e9), updates)
    a, b = after[:10].reshape(2, 5), after[10:18].reshape(4, 2)
    assert sorted(bool(np.abs(b[:, k]).max() > 1e-6) for k in range(2)) == [False, True]
    assert (np.abs(a).max(axis=1) > 1e-3).all()


def test_one_site_gives_its_own_product() -> None:
    start, (update,) = drawn(3, 1)
    np.testing.assert_allclose(
        product(start + joined(LoraProduct(start, pair(), 1e9), [update])), product(start + update), atol=1e-6
    )


def test_products_do_not_depend_on_the_order() -> None:
    start, updates = drawn(5, 4)
    found = {
        joined(LoraProduct(start, pair(), 1e9), list(order)).tobytes() for order in itertools.permutations(updates)
    }
    assert len(found) == 1


def test_factors_are_found_by_name_also_of_convolutions_and_not_without_their_other() -> None:
    layout = (("a.lora_A.shared.weight", (3, 2, 3, 3, 3)), ("b", (5,)), ("a.lora_B.shared.weight", (7, 3, 1, 1, 1)))
    (found,) = find_factors(layout)
    assert (found.a, found.b, found.rank) == (slice(0, 162), slice(167, 188), 3)
    assert find_factors((("a.lora_B.shared.weight", (7, 3)),)) == ()


@pytest.mark.parametrize(
    ("name", "kind"), [("mean", UpdateSum), ("trimmed", TrimmedMean), ("median", TrimmedMean), ("product", LoraProduct)]
)
def test_the_configuration_names_the_rule_and_every_rule_refuses_what_a_sum_refuses(name: str, kind: type) -> None:
    config = aggregate_config(rule=name, weighting="equal")
    rule = Joining(config=config, max_norm=10.0, pairs=pair()).rule(np.zeros(21, np.float32), 3)
    assert type(rule) is kind
    with pytest.raises(FedKT3DError, match="no update"):
        rule.mean()
    for bad, reason in ((np.ones(20), "wrong_shape"), (np.full(21, np.nan), "not_finite"), (np.full(21, 9.0), "norm")):
        with pytest.raises(UpdateRejectedError) as caught:
            rule.add(bad.astype(np.float32), 1)
        assert caught.value.reason.startswith(reason)
    with pytest.raises(FedKT3DError, match="no update"):
        rule.mean()
