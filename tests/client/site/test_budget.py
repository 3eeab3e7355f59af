"""`client budget` foresees what the pinned plan costs, against both limits."""

from __future__ import annotations

from pathlib import Path

from client.site.budget import budget_report
from privacy.dp.accountant import epsilon, profile
from tests.builders.hospital_homes import Homes


def test_each_limit_that_the_pinned_plan_will_reach_is_told(tmp_path: Path) -> None:
    homes = Homes(tmp_path, ("a", "b", "c"))
    homes.pin(homes.plan())
    home = homes.homes["a"]
    terms = home.pinned_plan().terms  # type: ignore[union-attr]
    assert terms is not None
    whole = terms.charge(terms.steps)
    near, alone = (epsilon(profile([whole], alone=one), terms.delta) for one in (False, True))
    assert near < alone
    free = budget_report(home)
    assert (free.planned, free.planned_alone) == (near, alone)
    assert not any("refuse" in line for line in free.lines())
    homes.change_policy("a", "max_epsilon_alone: null", f"max_epsilon_alone: {(near + alone) / 2}")
    (line,) = (line for line in budget_report(home).lines() if "pinned plan" in line)
    assert f"{near:.3f}" in line
    assert f"{alone:.3f} if all others collude; this site will refuse the last steps" in line
