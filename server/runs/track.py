"""`server track`: the curves of a run for TensorBoard or MLflow, live or afterwards.

A process of its own that reads the run's events (`events.jsonl`), so that a tracking server that hangs or is not there
never touches a run. What is written are means over sites, counts and seconds: what `events.jsonl` holds, and no site's
own values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from server.record.journal import in_use
from server.runs.index import EVENTS, Event, Tail
from shared_model.core.curve_stores import Curves
from shared_model.core.errors import FedKT3DError, InputError

POLL_S = 1.0


def track(
    out: Path, curves: Sequence[Curves], *, live: bool = True, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Write the curves of the run in ``out`` from its first round; with ``live`` until it ends or ``stopped``.

    Returns the last round written. InputError if ``out`` holds no run.
    """
    if not (out / EVENTS).is_file():
        raise InputError(f"{out}: no {EVENTS}; expected a run's output folder")
    tail, rounds, dropped, over = Tail(out / EVENTS, from_start=True), 0, 0, False
    try:
        while True:
            under_way = in_use(out)  # asked before the events: what a run wrote last is read once more
            for event in tail.new():
                dropped = 0 if event.get("kind") == "round_started" else dropped + (event.get("kind") == "site_dropped")
                over = event.get("kind") == "finished"
                for number, values in points(event, dropped):
                    rounds = max(rounds, number)
                    for one in curves:
                        one.add(number, float(event.get("time", 0.0)), values)
            if over or not live or not under_way or stopped():
                return rounds
            time.sleep(POLL_S)
    except Exception as error:  # of a store, whose text may hold a password, or an event that is none
        raise FedKT3DError(f"{out / EVENTS}: cannot be tracked ({type(error).__name__})") from error
    finally:
        for one in curves:
            one.close(over)


def points(event: Event, dropped: int) -> Iterator[tuple[int, dict[str, float]]]:
    """What one event adds: (round, name -> value)."""
    kind, number = event.get("kind"), int(event.get("round", 0))
    metrics = {str(name): float(value) for name, value in event.get("metrics", {}).items()}
    if kind == "evaluated":
        yield number, {f"evaluate/{name}": value for name, value in metrics.items()}
    elif kind in ("round_done", "rolled_back"):
        figures = {
            "round/sites": float(event.get("sites", 0)),
            "round/dropped": float(dropped),
            "round/megabytes": float(event.get("wire_bytes", 0)) / 1e6,
            "round/seconds": float(event.get("wall_s", 0.0)),
        }
        taken_back = {"round/rolled_back": 1.0}
        yield number, taken_back if kind == "rolled_back" else {f"train/{n}": v for n, v in metrics.items()} | figures
