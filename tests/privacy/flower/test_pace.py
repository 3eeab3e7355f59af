"""Pauses that fit the wait, and parts that are still on their way."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.flower import pace
from privacy.flower.pace import INSIST_S, SHARE, pause_s, until_there


class Clock:
    """Stands in for the time module: sleeping moves it on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Part:
    object_found: bool = True
    object_available: bool = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


@given(arrives_s=st.floats(0.0, 3600.0), longest_s=st.floats(0.5, 10.0))
def test_what_arrives_is_found_a_share_late_and_with_few_questions(arrives_s: float, longest_s: float) -> None:
    asked_at, questions = 0.0, 1
    while asked_at < arrives_s:
        asked_at += pause_s(asked_at, longest_s, shortest_s=0.1)
        questions += 1
    assert asked_at - arrives_s <= min(longest_s, max(0.1, SHARE * arrives_s)) + 1e-9
    assert questions <= 40 + arrives_s / longest_s


def test_an_idle_loop_pauses_as_long_as_it_may() -> None:
    assert pause_s(float("inf"), longest_s=3.0) == 3.0


def test_a_part_on_its_way_is_asked_for_again(clock: Clock) -> None:
    asked: list[float] = []

    def ask() -> Part:
        asked.append(clock.now)
        return Part(object_available=clock.now >= 1.0)

    assert until_there(ask).object_available
    assert 1.0 <= asked[-1] <= 1.0 * (1 + SHARE)


@pytest.mark.parametrize("part", [Part(), Part(object_found=False, object_available=False)])
def test_what_is_there_or_will_never_be_is_asked_for_once(clock: Clock, part: Part) -> None:
    asked: list[Part] = []
    assert until_there(lambda: asked.append(part) or part) is part
    assert len(asked) == 1


def test_a_part_that_does_not_come_is_left_to_the_caller(clock: Clock) -> None:
    assert not until_there(lambda: Part(object_available=False)).object_available
    assert INSIST_S <= clock.now <= INSIST_S + 1.0
