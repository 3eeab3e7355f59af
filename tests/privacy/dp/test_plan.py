from dataclasses import replace

import pytest

from privacy.dp import accountant
from privacy.dp.accountant import AccountantError
from privacy.dp.outlook import gaussian_mu, outlook, paying_sizes, table, useful_size
from privacy.dp.terms import PrivacyTerms

TERMS = PrivacyTerms(
    mode="shared", z=8.49, q=1.0, steps=200, clip=1.0, delta=1e-5, cohort=200, sites=10, survivors=9, colluders=1
)  # fmt: skip


def test_the_rule_of_thumb() -> None:
    assert gaussian_mu(8.0, 1e-5) == pytest.approx(1.66, abs=0.01)
    assert useful_size(8.0, 1e-5, 50) == pytest.approx(7000, rel=0.02)
    assert useful_size(8.0, 1e-5, 200) == pytest.approx(110_000, rel=0.01)
    assert useful_size(8.0, 1e-5, 1000) == pytest.approx(2.8e6, rel=0.02)


def test_hours_and_gigabytes_of_a_deployment() -> None:
    found = outlook(TERMS, 5_000_000, 200)
    assert found.epsilon == pytest.approx(8.0, abs=0.01)
    assert found.epsilon_alone > 3 * found.epsilon
    assert found.exchanges == 3 * 200 + 2 * 13  # keys are good for 16 steps
    assert found.hours == pytest.approx((35 / 60, 70 / 60), rel=0.03)
    assert found.gigabytes == pytest.approx(6.0, rel=0.01)  # 30 MB a step: 20 down, 10 up in a ring of 16 bits


def test_a_plan_is_refused_where_accountants_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "epsilon_prv", lambda spent, delta, error: 9.0)
    with pytest.raises(AccountantError, match="two accountants disagree"):
        outlook(TERMS, 7000, 200)


def test_warnings() -> None:
    hopeless = outlook(TERMS, 5_000_000, 200)
    assert "HOPELESS" in hopeless.warnings[0]
    assert any("HOPELESS" in line for line in table(hopeless))
    assert outlook(TERMS, 7000, 200).warnings == ()
    assert "doubtful" in outlook(TERMS, 200_000, 200).warnings[0]
    alone = outlook(replace(TERMS, survivors=2), 7000, 200)
    assert any("no noise is shared" in text for text in alone.warnings)
    careless = outlook(replace(TERMS, delta=0.01, z=2.0), 7000, 200)
    assert len(careless.warnings) == 2


def test_a_local_site_learns_from_its_own_patients_alone() -> None:
    shared = outlook(TERMS, 7000, 200)
    local = outlook(replace(TERMS, mode="local"), 7000, 50)
    assert local.useful == pytest.approx(shared.useful / 100, rel=0.01)
    assert local.exchanges == 158  # three each, and two for each of four set-ups
    assert local.warnings == ("doubtful: 7,000 numbers, but there is room for about 1,109",)
    assert local.epsilon == local.epsilon_alone == shared.epsilon


@pytest.mark.parametrize(
    ("patients", "low", "high"), [(170, (120, 160), (600, 750)), (1000, (4_500, 5_500), (22_000, 26_000)),
                                  (10_000, (4.5e5, 5.5e5), (2.2e6, 2.6e6))],
)  # fmt: skip
def test_what_pays_at_epsilon_eight(patients: int, low: tuple[float, float], high: tuple[float, float]) -> None:
    """About 140 to 700 numbers for 170 patients, 5 to 25 thousand for 1,000, up to millions for 10,000."""
    found = paying_sizes(8.0, 1e-5, patients)
    assert low[0] < found[0] < low[1]
    assert high[0] < found[1] < high[1]


def test_a_plan_says_what_pays_and_what_it_assumes() -> None:
    lines = "\n".join(table(outlook(TERMS, 7000, 200)))
    assert "numbers that pay, about" in lines
    assert "assumed: alignment 0.14 to 0.31" in lines
    assert "model.adapter=" in lines
