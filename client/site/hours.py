"""Time windows in which a site works, such as "19:00-06:00" or "mon-fri 19:00-06:00", in the site's local time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared_model.core.errors import InputError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))? )?([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")


@dataclass(frozen=True, kw_only=True)
class Window:
    """From ``start`` to ``end`` (minutes after midnight), on each of ``days`` (0: Monday).

    A window that ends before it starts runs past midnight and belongs to the day on which it starts.
    """

    days: frozenset[int]
    start: int
    end: int

    @classmethod
    def parse(cls, text: object) -> Window:
        """Read "19:00-06:00" or "mon-fri 19:00-06:00"; raises InputError."""
        match = _WINDOW.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(f"{text!r}: expected a window such as '19:00-06:00' or 'mon-fri 19:00-06:00'")
        first, last = match.group(1), match.group(2) or match.group(1)
        if not {first, last} <= {None, *DAYS}:
            raise InputError(f"{text!r}: expected the days {', '.join(DAYS)}")
        days = frozenset(range(7))
        if first is not None:
            begin, length = DAYS.index(first), (DAYS.index(last) - DAYS.index(first)) % 7
            days = frozenset((begin + n) % 7 for n in range(length + 1))
        start, end = (60 * int(match.group(n)) + int(match.group(n + 1)) for n in (3, 5))
        if int(match.group(4)) > 59 or int(match.group(6)) > 59 or start >= DAY_MINUTES or end > DAY_MINUTES:
            raise InputError(f"{text!r}: expected times from 00:00 to 24:00")
        if start == end:
            raise InputError(f"{text!r}: start and end are the same; a whole day is 00:00-24:00")
        return cls(days=days, start=start, end=end)

    def holds(self, moment: datetime) -> bool:
        """Whether ``moment`` (local time) lies in the window; the end itself does not."""
        minute = 60 * moment.hour + moment.minute
        today = moment.weekday() in self.days
        if self.start < self.end:
            return today and self.start <= minute < self.end
        yesterday = (moment - timedelta(days=1)).weekday() in self.days
        return (today and minute >= self.start) or (yesterday and minute < self.end)
