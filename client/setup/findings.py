"""One line of a check: what was looked at, how it stands, what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: its name, ``ok``, ``warn`` or ``fail``, what was found, what to do (empty: nothing)."""

    check: str
    state: str
    found: str
    todo: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
