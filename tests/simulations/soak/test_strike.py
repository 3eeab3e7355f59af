"""One strike of the soak: what its row says, and that a fault which the harness cannot strike ends nothing."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from simulations.soak.faults import NOBODY, DeployedFault
from simulations.soak.federation import Federation, SoakError
from simulations.soak.run import HARNESS, Soak


class Calm:
    """A federation in which every victim answers at once."""

    seed, resumed = 1, 0
    over = False
    names = ("site1", "site2")

    def rounds_done(self) -> int:
        return 3

    def answered(self, name: str, since: float) -> bool:
        return True

    def until(self, condition: Any, seconds: float) -> bool:
        return bool(condition())

    def said_of(self, name: str, since: float) -> list[str]:
        return ["timeout"]


def soak() -> Soak:
    return Soak(cast(Federation, Calm()), [], 0.0)


def test_a_fault_that_healed_by_itself_needed_nobody() -> None:
    struck: list[str] = []
    fault = DeployedFault(name="x", who=NOBODY, act=lambda _, victim, __: struck.append(victim), victim="site2")
    row = soak()._strike(fault)
    assert struck == ["site2"]
    assert (row.acted, row.said, row.good) == (NOBODY, "timeout", True)


@pytest.mark.parametrize("error", [SoakError("client restore: exit 2"), OSError("no room")])
def test_a_fault_that_cannot_be_struck_is_a_row_and_no_success(error: Exception) -> None:
    def act(_: Federation, victim: str, rng: random.Random) -> None:
        raise error

    row = soak()._strike(DeployedFault(name="x", who=NOBODY, act=act))
    assert row.acted == HARNESS
    assert str(error) in row.said
    assert not row.good
