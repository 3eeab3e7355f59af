"""One run as the console shows it, kept up to date from its events (``events.jsonl``), which only grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.pages.curves import Curve
from server.runs.index import EVENTS, Event, Tail

FAULTS_SHOWN = 200
# Seconds of the last rounds from which the time left is estimated.
_ROUNDS_TIMED = 10
_FAULTS = ("site_dropped", "round_failed", "rolled_back", "notice", "waiting")


@dataclass(kw_only=True)
class SiteRow:
    """What a run's events tell of one site."""

    joined: str = ""
    rounds: int = 0
    dropped: int = 0
    last_round: int = 0
    last_reason: str = ""
    answered: bool = False


@dataclass(kw_only=True)
class FaultLine:
    """One line of what went wrong, or of what is waited for."""

    at: float
    round: int
    kind: str
    site: str
    words: str


@dataclass
class RunView:
    """The run in ``out``. Call ``read`` before a look; it costs what was added since the last."""

    out: Path
    rounds: int = 0
    done: int = 0
    attempts: int = 0
    began: float = 0.0
    stage: str = "not started"
    finished: bool = False
    wire_bytes: int = 0
    sites: dict[str, SiteRow] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    faults: deque[FaultLine] = field(default_factory=lambda: deque(maxlen=FAULTS_SHOWN))

    def __post_init__(self) -> None:
        self._tail = Tail(self.out / EVENTS, from_start=True)
        self._seconds: deque[float] = deque(maxlen=_ROUNDS_TIMED)

    def read(self) -> None:
        """Take in the events that were added. What is no event of ours is passed over."""
        for event in self._tail.new():
            try:
                self._take(event)
            except (TypeError, ValueError, AttributeError):
                continue

    @property
    def waits_for(self) -> list[str]:
        """Sites that were asked in this round and have not answered."""
        return [] if self.finished else [name for name, row in self.sites.items() if not row.answered]

    @property
    def left_s(self) -> float | None:
        """Seconds to go, from the last rounds; None before the first is done or when all are."""
        if not self._seconds or self.finished or self.done >= self.rounds:
            return None
        return sum(self._seconds) / len(self._seconds) * (self.rounds - self.done)

    def _take(self, event: Event) -> None:
        kind, site = str(event.get("kind", "")), str(event.get("site", ""))
        number, at = int(event.get("round", 0)), float(event.get("time", 0.0))
        self.rounds = int(event.get("rounds", self.rounds))
        if kind in ("started", "resumed"):
            self.finished, self.stage, self.began = False, kind, at
            self.done = number if kind == "resumed" else 0
        elif kind == "site_joined":
            self._row(site).joined = str(event.get("detail", ""))
        elif kind == "round_started":
            self.began = at
            self.attempts += 1
            self.stage = f"round {number}: training"
            for row in self.sites.values():
                row.answered = False
        elif kind == "site_done":
            self._answered(self._row(site), number)
        elif kind == "round_done":
            self._round_done(event, number)
        elif kind == "evaluated":
            self.stage = f"round {number}: scored"
            self._points(number, event.get("metrics", {}), "score: ")
        elif kind == "finished":
            self.finished, self.stage = True, "finished"
        if kind in _FAULTS:
            self._fault(kind, site, number, at, event)

    def _round_done(self, event: Event, number: int) -> None:
        self.done, self.stage = number, f"round {number}: done"
        self.wire_bytes += int(event.get("wire_bytes", 0))
        seconds = float(event.get("wall_s", 0.0))
        self._seconds.append(seconds)
        self._points(number, event.get("metrics", {}), "training: ")
        figures = {"sites": float(event.get("sites", 0)), "megabytes": float(event.get("wire_bytes", 0)) / 1e6}
        self._points(number, {**figures, "seconds": seconds}, "round: ")

    def _fault(self, kind: str, site: str, number: int, at: float, event: Event) -> None:
        words = ": ".join(filter(None, (str(event.get("reason", "")), str(event.get("detail", "")))))
        self.faults.append(FaultLine(at=at, round=number, kind=kind.replace("_", " "), site=site, words=words))
        if kind == "site_dropped":
            row = self._row(site)
            row.dropped, row.last_reason, row.answered = row.dropped + 1, words, True
        elif kind != "notice":
            self.stage = f"round {number}: {kind.replace('_', ' ')}" + (f" ({words})" if words else "")

    def _answered(self, row: SiteRow, number: int) -> None:
        row.rounds += row.last_round != number
        row.answered, row.last_round = True, number

    def _row(self, site: str) -> SiteRow:
        row = self.sites.get(site)
        if row is None:
            row = self.sites[site] = SiteRow()
        return row

    def _points(self, number: int, metrics: Mapping[str, Any], group: str) -> None:
        for name, value in metrics.items():
            self.curves.setdefault(group + str(name), Curve()).add(number, float(value))


class RunViews:
    """One view a folder, made at the first look and kept."""

    def __init__(self) -> None:
        self._views: dict[Path, RunView] = {}

    def of(self, out: Path) -> RunView:
        """Return the view of the run in ``out``, read to its end."""
        view = self._views.setdefault(out, RunView(out))
        view.read()
        return view


def in_words(seconds: float | None) -> str:
    """Return a time in words: "3 h 20 min"; empty for None."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def clock(at: float) -> str:
    """Return a time of day here, with the date."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""
