"""Heartbeats: a process touches a file while it works, and whoever looks after it sees whether the file still changes.

A beat is the file's time of change alone: it needs no room on the disk. Compare two beats with each other, over a span
of the looker's own clock, and not with the time of day, which may be set at any moment.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

EVERY_S = 2.0


class Heartbeat:
    """The beats of one process at ``path``, at most one in ``every_s`` seconds."""

    def __init__(self, path: Path, every_s: float = EVERY_S) -> None:
        self._path, self._every_s = path, every_s
        self._last = float("-inf")

    def beat(self) -> None:
        """Note that the caller is at work. A file that cannot be touched is no reason to stop."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            return
        self._last = now
        with suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(self._path)

    def start(self, while_true: Callable[[], bool] = lambda: True) -> None:
        """Beat from a thread as long as the process lives and is not stopped, and ``while_true`` holds."""

        def run() -> None:
            while True:
                if while_true():
                    self.beat()
                time.sleep(self._every_s)

        threading.Thread(target=run, name="heartbeat", daemon=True).start()


def last_beat(path: Path) -> int | None:
    """Return a number that differs from beat to beat; None before the first."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
