import time
from pathlib import Path

import pytest

import simulations.reports.events as reports
from simulations.reports.events import CurveEvents
from tests.builders.event_files import events

ROWS = [{"samples": 2.0, "dose": 3.5, "rate": 1e-3}, {"samples": 4.0, "dose": 3.0, "rate": 5e-4}]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, pytest.approx(value.simple_value)) for event in events(folder) for value in
        event.summary.value
    ]  # fmt: skip


def test_rows_become_scalars_at_their_samples(tmp_path: Path) -> None:
    written = CurveEvents(tmp_path / "a", ROWS[:1])
    written.add(ROWS[1])
    written.close()
    assert scalars(tmp_path / "a") == [("dose", 2, 3.5), ("rate", 2, 1e-3), ("dose", 4, 3.0), ("rate", 4, 5e-4)]


def test_a_second_leg_writes_no_row_twice_and_hides_what_a_killed_one_wrote_beyond(tmp_path: Path) -> None:
    killed = CurveEvents(tmp_path, [])
    for row in ROWS:
        killed.add(row)
    killed.close()
    time.sleep(1.1)  # a file's name tells seconds
    again = CurveEvents(tmp_path, ROWS[:1])
    again.add({"samples": 4.0, "dose": 2.9})
    again.close()
    assert [step for _, step, _ in scalars(tmp_path)] == [2, 2, 4, 4, 4]
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [3]  # of what came before, steps from here on are not shown


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "find_spec", lambda name: None)
    assert not reports.events_possible()
    assert "fedkt3d[tensorboard]" in reports.NOT_INSTALLED
