"""`server run`: submit one federated run to the SuperLink, follow it to its end, and report the result.

The ServerApp runs in its own process beside the SuperLink and writes all results to the output folder. So this command
only watches: it reads the run's live events in `events.jsonl`, and now and then asks the SuperLink for the run's state.
If the run's process or the SuperLink dies, this command submits the run again, and it goes on from its last checkpoint.
Ctrl-C and SIGTERM stop the run. The same command continues it, also after this command itself was killed.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.config.run import RunConfig
from server.deployment.control import Control, RunStatus
from server.deployment.home import ServerHome
from server.deployment.start import is_ready
from server.runs import index as runs
from server.runs.failure import read_failure
from server.runs.index import ADAPTER, EVENTS, REPORT, Event, Tail
from server.runs.submission import COORDINATOR_BACK_S, Submission, not_running_error
from shared_model.core.errors import FedKT3DError, InputError

EVENT_POLL_S = 0.3
STATUS_POLL_S = 10.0  # each look costs about 1 s of CPU
FIRST_STATUS_S = 4.0  # a ServerApp that cannot start fails at once
RESTARTS = 5  # in a row, without a round in between
_PROGRESS = ("round_done", "evaluated")

Listener = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a completed run: its id at the SuperLink, its folder, the report that the ServerApp wrote."""

    run_id: str
    out: Path
    report: dict[str, Any]
    wall_s: float

    @property
    def adapter(self) -> Path:
        """The trained adapter."""
        return self.out / ADAPTER


class StoppedError(FedKT3DError):
    """Ctrl-C, SIGTERM or `flwr stop` stopped the run. It can be resumed."""

    exit_code = 130  # as shells report SIGINT


def run(home: ServerHome, config: RunConfig, out: Path, on_event: Listener) -> Outcome:
    """Run `config` to its end and return its result in `out`. If such a run is under way already, follow that one.

    Raises InputError when the coordinator does not run or `out` belongs to another configuration, StoppedError when
    the run was stopped, FedKT3DError when it failed.
    """
    started = time.monotonic()
    with _stop_requests() as stop:
        control = Control(home)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be used as an output folder ({error.strerror}); choose another") from error
        events = Tail(out / EVENTS)
        submission = Submission(home, control, config, out)
        run_id = submission.first()
        follow = _Follow(home, control, stop, events, on_event)
        while True:
            status = follow.follow(run_id)
            if status.completed:
                return Outcome(run_id=run_id, out=out, report=_report(out), wall_s=time.monotonic() - started)
            if status.state == "finished:stopped":
                raise StoppedError(_stop_text(out))
            if read_failure(status.details) or follow.restarts >= RESTARTS:
                break
            follow.restarts += 1
            on_event({"kind": "notice", "detail": f"{_why(status)}; going on from the last checkpoint"})
            run_id = submission.again()
    raise read_failure(status.details) or FedKT3DError(
        f"run {run_id} ended as {status.state}: {_why(status)}; the same command goes on from its last checkpoint"
    )


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event, so a run is never submitted and then forgotten."""
    stop = threading.Event()

    def request(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])  # a second one ends this command at once

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Follow:
    """Passes on a run's events until the SuperLink calls it finished. `restarts`: restarts since the last progress."""

    def __init__(
        self, home: ServerHome, control: Control, stop: threading.Event, events: Tail, on_event: Listener
    ) -> None:
        self._home, self._control, self._stop = home, control, stop
        self._events, self._on_event = events, on_event
        self.restarts = 0

    def follow(self, run_id: str) -> RunStatus:
        next_look = time.monotonic() + FIRST_STATUS_S
        seen_ready = time.monotonic()
        while True:
            if self._stop.is_set():
                return self._stop_run(run_id)
            over = self._pass_on()
            now = time.monotonic()
            if over or now >= next_look:
                status = self._look(run_id)
                if status is not None:
                    seen_ready = now
                    if status.finished:
                        self._pass_on()
                        return status
                elif now - seen_ready > COORDINATOR_BACK_S:
                    raise not_running_error(self._home)
                next_look = now + (1.0 if over or status is None else STATUS_POLL_S)
            self._stop.wait(EVENT_POLL_S)

    def _look(self, run_id: str) -> RunStatus | None:
        """Ask the SuperLink; None while it is away."""
        if not is_ready(self._home):
            return None
        try:
            return self._control.run_status(run_id)
        except FedKT3DError:
            return None

    def _pass_on(self) -> bool:
        over = False
        for event in self._events.new():
            if event.get("kind") in _PROGRESS:
                self.restarts = 0
            self._on_event(event)
            over = over or event.get("kind") == "finished"
        return over

    def _stop_run(self, run_id: str) -> RunStatus:
        try:
            self._control.stop(run_id)
        except FedKT3DError as error:
            status = self._look(run_id)
            if status is None or not status.finished:
                raise StoppedError(
                    f"the run could not be stopped ({error}); `server run --resume` follows it"
                ) from error
            if status.completed:
                return status
        self._pass_on()
        return RunStatus(state="finished:stopped", details="")


def _stop_text(out: Path) -> str:
    found = runs.progress(out)
    done = f"stopped after round {found['round']} of {found['rounds']}" if found["rounds"] else "stopped"
    return f"{done}; to go on, run the same command again, or `server run --resume`"


def _why(status: RunStatus) -> str:
    return " ".join(status.details.split()) or "no reason given; see logs/ in the coordinator's folder"


def _report(out: Path) -> dict[str, Any]:
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedKT3DError(f"{out / REPORT}: the run completed but left no readable report") from error
    if not isinstance(report, dict):
        raise FedKT3DError(f"{out / REPORT}: expected a JSON object")
    return report
