"""The review table of structure names: what each name was taken for and why, over all patients of a site.

A name is the record's own and may hold a person's name, so rows with names are only for the site's own screen. Counts
and TG-263 names are not secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from client.names.rows import AMBIGUOUS, IGNORED, MAPPED, UNMAPPED, NameRow

NOT_KNOWN = "not known to the model"
# First come the states that need a person.
_ORDER = (AMBIGUOUS, UNMAPPED, NOT_KNOWN, MAPPED, IGNORED)


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """One name of the site in so many ``patients``. ``state`` is a status of client/names/table.py or NOT_KNOWN."""

    name: str = field(repr=False)
    state: str
    tg263: str
    how: str
    candidates: tuple[str, ...]
    patients: int

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values, with the site's own name."""
        row = {"name": self.name, "state": self.state, "tg263": self.tg263, "how": self.how}
        return {**row, "looks_like": list(self.candidates), "patients": self.patients}

    def line(self) -> str:
        """The row for a screen."""
        taken = f" as {self.tg263}" if self.tg263 else ""
        near = f"; looks like {', '.join(self.candidates)}" if self.candidates else ""
        return f"{self.name!r}: {self.state}{taken} ({self.how}{near}), {self.patients} patients"


def state(row: NameRow) -> str:
    """The row's status; NOT_KNOWN for a TG-263 name that the model has no input for."""
    return NOT_KNOWN if row.status == MAPPED and not row.used else row.status


def not_known(rows: Iterable[NameRow]) -> tuple[str, ...]:
    """Return the TG-263 names of recognised structures that are not used because the model does not know them."""
    return tuple(sorted({row.tg263 for row in rows if state(row) == NOT_KNOWN}))


def not_known_notes(rows: Iterable[NameRow]) -> tuple[str, ...]:
    """The same as a note for a report; none where there are none."""
    names = not_known(rows)
    return (f"structures that the model does not know, not used: {', '.join(names)}",) if names else ()


def review(tables: Iterable[Sequence[NameRow]]) -> list[Reviewed]:
    """Merge the rows of many patients' tables: equal ones once, and first those that need a person."""
    found = Counter((row.name, state(row), row.tg263, row.how, row.candidates) for table in tables for row in table)
    rows = [
        Reviewed(name=name, state=status, tg263=tg263, how=how, candidates=candidates, patients=patients)
        for (name, status, tg263, how, candidates), patients in found.items()
    ]
    return sorted(rows, key=lambda row: (_ORDER.index(row.state), row.name))


def summary(rows: Sequence[Reviewed], *, show_ids: bool) -> dict[str, Any]:
    """Numbers of names by state, and in how many patients a structure is not known to the model; as JSON values."""
    unknown: Counter[str] = Counter()
    for row in rows:
        if row.state == NOT_KNOWN:
            unknown[row.tg263] += row.patients
    counted = Counter(row.state for row in rows)
    told: dict[str, Any] = {"names": {key: counted[key] for key in _ORDER if counted[key]}}
    told[NOT_KNOWN] = dict(sorted(unknown.items()))
    return told | ({"table": [row.to_json() for row in rows]} if show_ids else {})


def lines(rows: Sequence[Reviewed], *, show_ids: bool) -> list[str]:
    """The review for a screen: what is not used, by name only with ``show_ids``."""
    if not rows:
        return []
    told = summary(rows, show_ids=False)
    counts = ", ".join(f"{count} {key}" for key, count in told["names"].items())
    look = "" if show_ids or set(told["names"]) <= {MAPPED} else "; --show-ids lists what is not used"
    out = [f"structure names: {counts}{look}"]
    if told[NOT_KNOWN]:
        names = ", ".join(f"{name} ({count})" for name, count in told[NOT_KNOWN].items())
        out.append(f"  {NOT_KNOWN}, not used: {names}")
    return out + ([f"  {row.line()}" for row in rows if row.state != MAPPED] if show_ids else [])
