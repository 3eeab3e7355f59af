"""What this coordinator knows about its runs: an index by Flower's run id, and each run's own folder.

`state/runs.json` maps a run id to name, folder and start. `OUT/run.json` holds the configuration of the last start in
OUT, so `server run --resume` needs no configuration (server/runs/submission.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.flower.processes import read_state
from server.config.run import RunConfig
from server.deployment.home import ServerHome
from server.record.journal import in_use
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

EVENTS = "events.jsonl"
REPORT = "federation.json"
ADAPTER = "adapter.safetensors"
RUN = "run.json"
_KEPT = 200

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One start of a run. The same ``out`` may have several starts. Each start has its own run id."""

    run_id: str
    name: str
    out: Path
    started: float


def default_out(home: ServerHome, name: str) -> Path:
    """Return the folder for a run without a given folder."""
    return home.folder / "runs" / name


def intend(config: RunConfig, out: Path) -> None:
    """Record a run that is about to be submitted."""
    write_text(out / RUN, json.dumps({"run_id": "", "config": config.to_json()}, indent=1), mode=ORDINARY)


def remember(home: ServerHome, run_id: str, config: RunConfig, out: Path) -> None:
    """Record a run that was just submitted."""
    text = config.to_json()
    write_text(out / RUN, json.dumps({"run_id": run_id, "config": text}, indent=1), mode=ORDINARY)
    # Relative to the home where it can be: a home that was copied or moved must not write into its old place.
    inside = out.resolve().is_relative_to(home.folder)
    place = out.resolve().relative_to(home.folder) if inside else out.resolve()
    index = {**read_state(_index(home)), run_id: {"name": config.name, "out": str(place), "started": time.time()}}
    latest = sorted(index.items(), key=lambda item: float(item[1]["started"]))[-_KEPT:]
    write_text(_index(home), json.dumps(dict(latest), indent=1), mode=ORDINARY)


def entries(home: ServerHome) -> list[RunEntry]:
    """Return all recorded starts, oldest first."""
    found = []
    for run_id, entry in read_state(_index(home)).items():
        out = home.folder / entry["out"]  # an absolute path stays as it is
        found.append(RunEntry(run_id=run_id, name=entry["name"], out=out, started=entry["started"]))
    return sorted(found, key=lambda entry: entry.started)


def find(home: ServerHome, name: str | None) -> RunEntry:
    """Return the last start of the run called ``name``, or the last of all; InputError when there is none."""
    fitting = [entry for entry in entries(home) if name in (None, entry.name)]
    if not fitting:
        what = f"no run named {name}" if name else "no run yet"
        raise InputError(f"{home.folder}: {what}; see `server status --home {home.folder}`")
    return fitting[-1]


def configuration(out: Path) -> RunConfig:
    """Return the configuration that ``out`` was started with; InputError when there is none."""
    text = read_state(out / RUN).get("config")
    if not isinstance(text, str):
        raise InputError(f"{out / RUN}: no configuration to resume; start the run without --resume")
    return RunConfig.from_json(text)


def progress(out: Path) -> dict[str, Any]:
    """Return the progress of the run in ``out``, by its events: rounds, the last round's sites, and if it is active."""
    found: dict[str, Any] = {"round": 0, "rounds": 0, "sites": [], "dropped": {}, "stopped": "", "active": in_use(out)}
    for event in events(out):
        kind, number = event.get("kind"), int(event.get("round", 0))
        found["rounds"] = event.get("rounds", found["rounds"])
        if kind == "round_started":
            found["sites"], found["dropped"] = [], {}
        elif kind == "site_done" and event["site"] not in found["sites"]:
            found["sites"].append(event["site"])
        elif kind == "site_dropped":
            found["dropped"][event["site"]] = ": ".join(filter(None, (event.get("reason"), event.get("detail"))))
        if kind in ("round_done", "resumed"):
            found["round"] = number
        if kind == "finished":
            found["stopped"] = event.get("detail", "")
    return found


def events(out: Path) -> Iterator[Event]:
    """Yield the events of the run in ``out``."""
    return Tail(out / EVENTS, from_start=True).new()


class Tail:
    """Reads the lines added to a JSON Lines file since this object was made (or all lines, ``from_start``)."""

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() and not from_start else 0

    def new(self) -> Iterator[Event]:
        """Yield the events of the new complete lines."""
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
                event = json.loads(line.decode())  # of bytes, json guesses the encoding of each line first
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


def _index(home: ServerHome) -> Path:
    return home.folder / "state" / "runs.json"
