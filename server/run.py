"""`server run`: submit one federated run to the SuperLink, follow it, and show what came of it.

The ServerApp runs in a process of its own beside the SuperLink and writes all results to the output folder, so this
command only watches: the run's live events in `events.jsonl`, and now and then the SuperLink's own word on its state.
Stopping this command (Ctrl-C) stops the run; the same command with the same folder takes it up where it stood.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.config import RunConfig
from server.control import Control, RunStatus
from server.home import ServerHome
from server.stub import write_bundle, write_run_config
from shared_model.errors import FedKT3DError, InputError

EVENTS = "events.jsonl"
REPORT = "federation.json"
ADAPTER = "adapter.safetensors"
EVENT_POLL_S = 0.3
STATUS_POLL_S = 10.0  # each look costs about 1 s of CPU
FIRST_STATUS_S = 4.0  # a ServerApp that cannot start fails at once
_INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}:"

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a completed run left: its id at the SuperLink, its folder, the report that the ServerApp wrote."""

    run_id: str
    out: Path
    report: dict[str, Any]
    wall_s: float

    @property
    def adapter(self) -> Path:
        """The trained adapter."""
        return self.out / ADAPTER


def default_out(home: ServerHome, config: RunConfig) -> Path:
    """Folder of a run that was given none."""
    return home.folder / "runs" / config.name


def run(home: ServerHome, config: RunConfig, out: Path, on_event: Callable[[Event], None]) -> Outcome:
    """Run `config` to its end and return what it left in `out`.

    Raises InputError when the coordinator does not run or `out` belongs to another configuration, FedKT3DError when the
    run failed. KeyboardInterrupt stops the run at the SuperLink and goes on.
    """
    started = time.monotonic()
    control = Control(home)
    out.mkdir(parents=True, exist_ok=True)
    events = _Tail(out / EVENTS)
    run_id = _submit(home, control, config, out)
    try:
        status = _follow(control, run_id, events, on_event)
    except KeyboardInterrupt:
        control.stop(run_id)
        raise
    if not status.completed:
        raise _failure(control, run_id, status)
    return Outcome(run_id=run_id, out=out, report=_report(out), wall_s=time.monotonic() - started)


def _submit(home: ServerHome, control: Control, config: RunConfig, out: Path) -> str:
    text = config.to_json()
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = home.folder / "app"
    bundle = write_bundle(folder)
    return control.submit(bundle, write_run_config(folder / "run.toml", config=text, sha256=digest, out=out.resolve()))


def _follow(control: Control, run_id: str, events: _Tail, on_event: Callable[[Event], None]) -> RunStatus:
    """Pass events on until the SuperLink calls the run finished."""
    next_look = time.monotonic() + FIRST_STATUS_S
    while True:
        over = False
        for event in events.new():
            on_event(event)
            over = over or event.get("kind") == "finished"
        if over or time.monotonic() >= next_look:
            status = control.run_status(run_id)
            if status.finished:
                for event in events.new():
                    on_event(event)
                return status
            next_look = time.monotonic() + (1.0 if over else STATUS_POLL_S)
        time.sleep(EVENT_POLL_S)


class _Tail:
    """Reads the lines that a JSON Lines file gains after this object was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[Event]:
        """Yield the events of the lines that are complete by now."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole, _, _ = content.rpartition(b"\n")
        if not whole:
            return
        self._offset += len(whole) + 1
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


def _failure(control: Control, run_id: str, status: RunStatus) -> FedKT3DError:
    """Return the error to raise for a run that ended badly; bad input is told apart by the ServerApp's own log."""
    for line in reversed(control.log(run_id)):
        if _INPUT_ERROR in line:
            return InputError(line.partition(_INPUT_ERROR)[2].strip())
    detail = " ".join(status.details.split()) or "see logs/ in the coordinator's folder"
    return FedKT3DError(f"run {run_id} ended as {status.state}: {detail}; the same command goes on from its checkpoint")


def _report(out: Path) -> dict[str, Any]:
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedKT3DError(f"{out / REPORT}: the run completed and left no readable report") from error
    if not isinstance(report, dict):
        raise FedKT3DError(f"{out / REPORT}: expected a JSON object")
    return report
