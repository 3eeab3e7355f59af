"""What a run does between two attempts at a round: how long it waits, and what it says while it waits.

An attempt that fails costs the sites that answered their budget. So the next one begins when enough sites have been
there for a while, not at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from server.record.events import Event
from server.sites.attendance import Attendance

SAY_AFTER_S = 5.0
SAY_AGAIN_S = 60.0
_SHARE, _GROWTH = 60.0, 4.0


def pause_s(tried: int, wait_for_sites_s: float) -> float:
    """Return for how many seconds the sites must have been there before attempt ``tried`` (1, 2, ...) at a round.

    0 before the first; then a sixtieth of ``wait_for_sites_s`` (10 s by default), and four times as long each time, up
    to a half of it.
    """
    if tried < 2:
        return 0.0
    return min(wait_for_sites_s / _SHARE * _GROWTH ** min(tried - 2, 20), wait_for_sites_s / 2)


class Waiting:
    """Says who is waited for, and since when: after SAY_AFTER_S, then at each change and once in SAY_AGAIN_S."""

    def __init__(self, emit: Callable[[Event], None], roster: Attendance, number: int, min_sites: int) -> None:
        self._emit, self._roster, self._number, self._least = emit, roster, number, min_sites
        self._since, self._clock = time.monotonic(), datetime.now()
        self._said = ("", 0.0)

    def __call__(self, usable: int) -> None:
        """Note one look: ``usable`` sites can be asked."""
        now = time.monotonic()
        whom = self._roster.waiting_for()
        text = f"{usable} of at least {self._least} sites can be asked, since {self._clock:%H:%M:%S}"
        text += f" ({whom})" if whom else ""
        if now - self._since < SAY_AFTER_S or (text == self._said[0] and now - self._said[1] < SAY_AGAIN_S):
            return
        self._said = (text, now)
        self._emit(Event(kind="waiting", round=self._number, sites=usable, detail=text))
