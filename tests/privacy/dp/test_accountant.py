"""Known answers, two accountants side by side, and the arithmetic around them."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.dp import accountant
from privacy.dp.accountant import (
    AccountantError,
    Budget,
    Charge,
    checked_epsilon,
    epsilon,
    epsilon_prv,
    noise_multiplier,
    profile,
)

DELTA = 1e-5


@pytest.mark.parametrize(
    ("z", "q", "steps", "pld", "prv"),
    [(1.0, 0.05, 200, 4.766, 4.776), (2.0, 0.2, 200, 7.372, 7.383), (4.6, 1.0, 50, 7.261, 7.272)],
)
def test_known_answers(z: float, q: float, steps: int, pld: float, prv: float) -> None:
    spent = {(z, q): steps}
    assert epsilon(spent, DELTA) == pytest.approx(pld, abs=1e-3)
    assert epsilon_prv(spent, DELTA) == pytest.approx(prv, abs=1e-3)
    assert epsilon(spent, DELTA) == pytest.approx(epsilon_prv(spent, DELTA), rel=2.5e-3)


@pytest.mark.parametrize(
    ("z", "q", "steps", "answer"), [(8.49, 1.0, 200, 8.0), (8.0, 0.5, 50, 1.770), (30.0, 0.3, 20, 0.1697)]
)
def test_an_epsilon_that_both_accountants_find(z: float, q: float, steps: int, answer: float) -> None:
    assert checked_epsilon({(z, q): steps}, DELTA if answer > 1.0 else 1e-6) == pytest.approx(answer, rel=2e-3)


@pytest.mark.parametrize("factor", [0.98, 1.02, math.nan])
def test_accountants_that_disagree_by_over_1_percent_are_refused(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = epsilon({(2.0, 0.2): 200}, DELTA)
    monkeypatch.setattr(accountant, "epsilon_prv", lambda spent, delta, error: factor * ours)
    with pytest.raises(AccountantError, match=r"7\.372 \(dp-accounting\)"):
        checked_epsilon({(2.0, 0.2): 200}, DELTA)


def test_accountants_that_agree_within_1_percent_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = epsilon({(2.0, 0.2): 200}, DELTA)
    monkeypatch.setattr(accountant, "epsilon_prv", lambda spent, delta, error: 1.009 * ours)
    assert checked_epsilon({(2.0, 0.2): 200}, DELTA) == ours


def test_no_comparison_where_nothing_is_spent_or_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "epsilon_prv", lambda *_, **__: pytest.fail("asked"))
    assert checked_epsilon({}, DELTA) == 0.0
    assert checked_epsilon({(0.1, 1.0): 10}, DELTA) > 100.0


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle and Wang (2018), theorem 8."""
    return brentq(lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0, 200)


@pytest.mark.parametrize(("z", "steps"), [(0.6, 1), (4.25, 50), (19.0, 1000)])
def test_full_batches_follow_the_closed_form(z: float, steps: int) -> None:
    exact = gaussian_epsilon(math.sqrt(steps) / z, DELTA)
    assert exact <= epsilon({(z, 1.0): steps}, DELTA) + 1e-9
    assert epsilon({(z, 1.0): steps}, DELTA) == pytest.approx(exact, rel=1e-3)


def test_full_batches_of_different_noise_add_up() -> None:
    mu = math.sqrt(3 / 2.0**2 + 5 / 4.0**2)
    assert epsilon({(2.0, 1.0): 3, (4.0, 1.0): 5}, DELTA) == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-3)


@pytest.mark.parametrize(
    ("q", "steps", "z"),
    [(0.1, 200, 1.13), (0.25, 1000, 4.82), (1.0, 1000, 19.0)],
)
def test_noise_for_epsilon_8(q: float, steps: int, z: float) -> None:
    found = noise_multiplier(8.0, DELTA, q, steps)
    assert found == pytest.approx(z, abs=0.011)
    assert epsilon({(found, q): steps}, DELTA) <= 8.0
    assert epsilon({(found * 0.995, q): steps}, DELTA) > 8.0


def test_a_huge_budget_needs_no_less_noise_than_the_terms_allow() -> None:
    assert noise_multiplier(1e6, DELTA, 0.01, 1) == 0.1


@pytest.mark.parametrize("target", [50.0, 200.0, 1000.0])
def test_a_large_budget_has_its_noise_too(target: float) -> None:
    found = noise_multiplier(target, DELTA, 1.0, 20)
    assert 0.99 * target < epsilon({(found, 1.0): 20}, DELTA) <= target


def test_nothing_spent_and_everything_lost() -> None:
    assert epsilon({}, DELTA) == 0.0
    assert epsilon({(0.1, 1.0): 1000}, DELTA) > 1000


def test_charges_add_up_by_mechanism_and_alone() -> None:
    charges = [Charge(z=2.0, z_alone=1.0, q=0.5, count=3), Charge(z=2.0, z_alone=1.0, q=0.5)]
    assert profile(charges) == {(2.0, 0.5): 4}
    assert profile(charges, alone=True) == {(1.0, 0.5): 4}
    assert epsilon(profile(charges, alone=True), DELTA) > epsilon(profile(charges), DELTA)


def test_a_budget_asks_once_for_all_that_lies_below(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("privacy.dp.accountant.epsilon", lambda spent, delta: asked.append(1) or spent[(1.0, 1.0)] / 10)
    limit = Budget(1.0, DELTA)
    assert limit.allows({(1.0, 1.0): 8})
    assert all(limit.allows({(1.0, 1.0): n}) for n in range(1, 9))
    assert len(asked) == 1
    assert limit.allows({(1.0, 1.0): 10})
    assert not limit.allows({(1.0, 1.0): 11})
    assert len(asked) == 3
