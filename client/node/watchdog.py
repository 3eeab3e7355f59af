"""Judges by their notes whether a site's processes still work, so that `client start` can restart them.

/health of Flower's SuperNode answers 200 even when the site no longer works, so progress is what counts.
"""

from __future__ import annotations

import time
from typing import Any

# The executor asks for a task four times a second, Flower's loop for an answer twice a second.
LOST_TASK_S = 10.0
# A large message takes its time from the SuperNode to the executor, but no longer than this.
NO_MESSAGE_S = 300.0
# Heartbeats come every 18 to 23 s, attempts to reconnect at least every 50 s.
SILENT_S = 75.0
# The executor beats every 2 s, but a machine that swaps may hold it up.
SILENT_WORK_S = 60.0
# A task hangs when it takes this many times what the longest of its kind took here, and no less than the least.
TIMES_LONGER, LEAST_TASK_S = 5.0, 600.0
# Each time a task was given up, the next of its kind gets more: another run may ask for longer tasks.
MORE_AFTER_GIVING_UP = 4.0


class Watchdog:
    """Call ``reason`` again and again. It uses this process's own time, so setting the machine's clock is harmless."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, float]] = {}

    def reason(self, pid: int | None, supernode: dict[str, Any], executor: dict[str, Any]) -> str:
        """Return why the SuperNode with this ``pid`` must restart, or an empty text."""
        if pid is None:
            for what in ("alive", "lost", "waits"):
                self._seen.pop(what, None)
            return ""
        if self._age_s("alive", (pid, supernode.get("alive"))) > SILENT_S:
            return "no sign of life"
        lost = supernode.get("holding") and not supernode.get("busy") and executor.get("state") == "idle"
        mark = (pid, executor.get("since")) if lost and supernode.get("connection") == "connected" else None
        # It waits for an answer that no process works on: the executor was killed, or its run is over.
        if self._age_s("lost", mark) > LOST_TASK_S and mark is not None:
            return "its task was lost"
        waits = executor.get("state") == "working" and not executor.get("task") and not supernode.get("busy")
        mark = (pid, executor.get("since")) if waits else None
        if self._age_s("waits", mark) > NO_MESSAGE_S and mark is not None:
            return "the message of its task did not come"
        return ""

    def hangs(self, pid: int | None, executor: dict[str, Any], longest_s: float, beat: int | None = None) -> str:
        """Return why the executor with this ``pid`` must restart, or an empty text.

        A task may take ``longest_s``. ``beat``: the executor's last heartbeat; it beats at work and when idle.
        """
        if self._age_s("silent", None if pid is None else (pid, beat)) > SILENT_WORK_S and pid is not None:
            return "no sign of life"
        mark = (pid, executor.get("since")) if pid is not None and executor.get("state") == "working" else None
        if self._age_s("hangs", mark) > longest_s and mark is not None:
            return f"a task took longer than {_span(longest_s)}"
        return ""

    def _age_s(self, what: str, mark: Any) -> float:
        """Return for how many seconds ``mark`` has been the same."""
        now = time.monotonic()
        before, since = self._seen.get(what, (None, now))
        if mark != before:
            since = now
        self._seen[what] = (mark, since)
        return now - since


class TaskTimes:
    """How long tasks of each kind take at this site, and from when on one of them hangs.

    ``longest_s``: the policy's limit (max_task_hours), which always holds.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._took: dict[str, float] = {}
        self._grace: dict[str, float] = {}

    def took(self, kind: str, seconds: float) -> None:
        """Note that a task of ``kind`` was done in this time."""
        self._took[kind] = max(seconds, self._took.get(kind, 0.0))
        self._grace.pop(kind, None)

    def gave_up(self, kind: str) -> None:
        """Note that a task of ``kind`` was taken to hang."""
        self._grace[kind] = min(MORE_AFTER_GIVING_UP * self._grace.get(kind, 1.0), 1e6)

    def limit_s(self, kind: str) -> float:
        """Return how long a task of ``kind`` may take; the policy's limit before the first is done."""
        if kind not in self._took:
            return self._longest_s
        usual = max(LEAST_TASK_S, TIMES_LONGER * self._took[kind])
        return min(self._longest_s, self._grace.get(kind, 1.0) * usual)


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds / 60:.3g} min"
