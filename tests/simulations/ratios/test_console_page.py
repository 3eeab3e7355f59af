"""The large run that the page is measured with is one that the console reads, and a browser shows its updates."""

from __future__ import annotations

from pathlib import Path

from server.console.overview import Overview
from server.record.events import EventLog
from simulations.ratios.benchmarks import BENCHMARKS, PAGE_LIMITS
from simulations.ratios.console_page import MOST_ROUNDS, NAME, make_home, measure, round_events
from tests.e2e.browser import needs_chromium

FOUND = {"first_paint_s": 0.5, "update_s": 0.1, "longest_update_s": 0.3, "memory_mb": 150.0, "events_mb": 10.0}


def test_the_console_reads_the_run_that_is_made_up(tmp_path: Path) -> None:
    overview = Overview(make_home(tmp_path / "home", 3, 20))
    assert [site.name for site in overview.sites(ready=False)] == [f"hospital-{number}" for number in range(3)]
    line = overview.run(NAME)
    assert line is not None
    view = line.view
    assert (view.done, view.rounds, len(view.sites)) == (20, MOST_ROUNDS, 3)
    assert {row.rounds + row.dropped for row in view.sites.values()} == {20}
    assert set(view.curves) >= {"training: loss", "score: dose_score_gy", "round: seconds"}
    assert overview.home.public_log().size() == 20


def test_its_events_are_written_as_a_run_writes_them(tmp_path: Path) -> None:
    home, out = make_home(tmp_path / "home", 2, 1), tmp_path / "out"
    out.mkdir()
    log = EventLog(out, lambda _: None)
    for event in round_events(["hospital-0", "hospital-1"], 1):
        log(event)
    made = (home.folder / "runs" / NAME / "events.jsonl").read_text().splitlines()[2:]
    keys = [sorted(line.replace(f'"rounds": {MOST_ROUNDS}', "").split('"')[1::2]) for line in made]
    assert keys == [sorted(line.split('"')[1::2]) for line in (out / "events.jsonl").read_text().splitlines()]


@needs_chromium
def test_a_browser_shows_the_page_and_its_updates() -> None:
    found = measure(sites=3, rounds=5, updates=2)
    assert set(found) == set(FOUND)
    assert all(value > 0.0 for value in found.values())


def test_each_figure_counts_beside_its_limit() -> None:
    read = [BENCHMARKS[name].read(FOUND) for name in ("page_paint", "page_update", "page_memory")]
    assert read == [0.5, 0.5, 0.5]
    assert PAGE_LIMITS == {"first_paint_s": 1.0, "update_s": 0.2, "memory_mb": 300.0}
