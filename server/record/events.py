"""Live events of a run, for a progress bar, the log, and ``out/events.jsonl`` (one JSON object per line)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared_model.core.files import StorageError

_LOG = logging.getLogger("fedkt3d.server")

# What a person should see at once.
LOUD = ("site_dropped", "round_failed", "rolled_back", "notice", "waiting")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened, for progress bars and ``out/events.jsonl``; unused fields keep their defaults.

    ``kind``: started, resumed, notice, site_joined, waiting, round_started, site_done, site_dropped, round_failed,
    rolled_back, round_done, evaluated, finished.
    """

    kind: str
    round: int = 0
    rounds: int = 0
    site: str = ""
    reason: str = ""
    detail: str = ""
    sites: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    wire_bytes: int = 0
    wall_s: float = 0.0

    def line(self) -> str:
        """Return the event as one line for a log."""
        where = f"round {self.round}/{self.rounds} " if self.round else ""
        words = [where + self.kind.replace("_", " "), self.site, self.reason, self.detail]
        return " ".join(word for word in words if word)


Listener = Callable[[Event], None]


class EventLog:
    """Appends every event to ``out/events.jsonl`` and passes it to the listener; without one it goes to the log."""

    def __init__(self, out: Path, listener: Listener | None = None) -> None:
        self._path = out / "events.jsonl"
        self._listener = listener
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._write("\n")  # the last line was cut short by a crash or a full disk

    def __call__(self, event: Event) -> None:
        """Record one event. The file is opened for each event, so a copy of the folder always has whole lines."""
        plain = {key: value for key, value in asdict(event).items() if value not in ("", 0, 0.0, {})}
        self._write(json.dumps({"time": round(time.time(), 3), **plain}) + "\n")
        if self._listener is not None:
            self._listener(event)
        else:
            _LOG.log(logging.WARNING if event.kind in LOUD else logging.INFO, event.line())

    def _write(self, text: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise StorageError(self._path, error) from error
