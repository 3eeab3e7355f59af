"""A run's page follows its events, and draws what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.pages.curves import HEIGHT, WIDTH, Curve
from server.console.run_view import RunView, in_words


def tell(out: Path, *events: dict[str, Any]) -> None:
    with (out / "events.jsonl").open("a") as file:
        for number, event in enumerate(events):
            file.write(json.dumps({"time": 1000.0 + number, "rounds": 4, **event}) + "\n")


def test_a_round_is_followed_as_it_happens(tmp_path: Path) -> None:
    view = RunView(tmp_path)
    tell(tmp_path, {"kind": "started"}, {"kind": "site_joined", "round": 1, "site": "a", "detail": "10 patients"})
    tell(tmp_path, {"kind": "site_joined", "round": 1, "site": "b"}, {"kind": "round_started", "round": 1, "sites": 2})
    view.read()
    assert view.stage == "round 1: training"
    assert view.waits_for == ["a", "b"]
    assert view.sites["a"].joined == "10 patients"
    tell(tmp_path, {"kind": "site_done", "round": 1, "site": "a"})
    dropped = {"kind": "site_dropped", "round": 1, "site": "b", "reason": "timeout", "detail": "60 s"}
    tell(tmp_path, dropped)
    view.read()
    assert view.waits_for == []
    assert (view.sites["b"].dropped, view.sites["b"].last_reason) == (1, "timeout: 60 s")
    assert view.left_s is None
    done = {"kind": "round_done", "round": 1, "sites": 1, "metrics": {"loss": 0.5}, "wire_bytes": 2e6, "wall_s": 30.0}
    tell(tmp_path, done)
    view.read()
    assert (view.done, view.left_s, view.wire_bytes) == (1, 90.0, 2_000_000)
    assert view.curves["training: loss"].values == [0.5]
    assert [(fault.site, fault.words) for fault in view.faults] == [("b", "timeout: 60 s")]
    tell(tmp_path, {"kind": "finished"})
    view.read()
    assert view.finished
    assert view.left_s is None


def test_a_round_that_was_done_again_replaces_its_points(tmp_path: Path) -> None:
    view = RunView(tmp_path)
    for number, loss in ((1, 0.9), (2, 0.8), (1, 0.7)):
        tell(tmp_path, {"kind": "round_done", "round": number, "metrics": {"loss": loss}})
    view.read()
    assert (view.curves["training: loss"].numbers, view.curves["training: loss"].values) == ([1], [0.7])


def test_lines_that_are_no_events_are_passed_over(tmp_path: Path) -> None:
    with (tmp_path / "events.jsonl").open("w") as file:
        file.write('not json\n[1]\n{"kind": "round_done", "round": "x"}\n{"kind": "round_done", "metrics": 3}\n')
    tell(tmp_path, {"kind": "round_done", "round": 2, "metrics": {"loss": float("nan")}})
    view = RunView(tmp_path)
    view.read()
    assert view.done == 2
    assert not view.curves["training: loss"].values


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=1000))
def test_a_curve_stays_in_its_box_and_shows_its_extremes(values: list[float]) -> None:
    curve = Curve()
    for number, value in enumerate(values):
        curve.add(number, value)
    points = [tuple(float(part) for part in point.split()) for point in curve.path()[1:].split("h")[0].split("L")]
    assert len(points) <= 170
    assert all(0.0 <= x <= WIDTH and 0.0 <= y <= HEIGHT for x, y in points)
    if max(values) > min(values):
        assert min(y for _, y in points) == 4.0
        assert max(y for _, y in points) == HEIGHT - 4.0


@pytest.mark.parametrize(("seconds", "words"), [(None, ""), (2.0, "2 s"), (90.0, "2 min"), (12_000.0, "3 h 20 min")])
def test_times_in_words(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
