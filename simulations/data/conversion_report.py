"""What a conversion of OpenKBP found: a record of each patient, and who lacks what, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simulations.data.csv_patient import STRUCTURES

# The official splits and how many patients each has.
EXPECTED: Mapping[str, int] = {"train": 200, "validation": 40, "test": 100}
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class PatientRecord:
    """A patient's split, the state of his CSV files, the volumes that he lacks, and why he could not be read."""

    split: str
    state: str
    missing: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class Conversion:
    """All patients of a clone, by case id in the order of splits and numbers; ``read``: how many were read just now."""

    clone: Path
    out: Path
    patients: Mapping[str, PatientRecord]
    read: int = 0

    @property
    def written(self) -> dict[str, PatientRecord]:
        """The patients who were read and written."""
        return {case_id: record for case_id, record in self.patients.items() if record.problem is None}

    def splits(self) -> dict[str, list[str]]:
        """The written patients of each split: the content of splits.json."""
        return {split: [c for c, record in self.written.items() if record.split == split] for split in EXPECTED}

    def lacking(self, volume: str) -> list[str]:
        """The written patients without ``volume``."""
        return [case_id for case_id, record in self.written.items() if volume in record.missing]

    def to_json(self) -> dict[str, Any]:
        """Counts by split, and every patient's record."""
        return {
            "clone": str(self.clone),
            "counts": {
                split: dict(zip(("expected", "found", "written"), c, strict=True)) for split, *c in self._rows()
            },
            "patients": {case_id: asdict(record) for case_id, record in self.patients.items()},
        }

    def _rows(self) -> list[tuple[str, int, int, int]]:
        written = self.splits()
        found = {split: sum(r.split == split for r in self.patients.values()) for split in EXPECTED}
        return [(split, EXPECTED[split], found[split], len(written[split])) for split in EXPECTED]

    def table(self) -> str:
        """Lines for the screen: counts by split, who lacks what, and each patient that could not be read."""
        total, expected = len(self.written), sum(EXPECTED.values())
        lines = [f"{total} of OpenKBP's {expected} patients are in {self.out}", ""]
        lines += _align_columns([("split", "expected", "found", "written"), *self._rows()])
        fewer = [f"{split} {expected - found}" for split, expected, found, _ in self._rows() if found < expected]
        if fewer:
            lines += ["", f"patients that {self.clone} does not have: {', '.join(fewer)} (fewer patients are fine)"]
        rows = [("ct", self.lacking("ct")), *((name, self.lacking(name)) for name in STRUCTURES)]
        without = [(name, len(ids), _list_first(ids)) for name, ids in rows if ids]
        if without:
            lines += ["", *_align_columns([("without", "patients", "who"), *without])]
        problems = [record.problem for record in self.patients.values() if record.problem is not None]
        if problems:
            lines += ["", f"patients left out, as they cannot be read: {len(problems)}", *problems]
        return "\n".join(lines)


def _list_first(case_ids: Sequence[str]) -> str:
    more = len(case_ids) - _SHOWN
    return " ".join(case_ids[:_SHOWN]) + (f" and {more} more (conversion.json)" if more > 0 else "")


def _align_columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as text, each column as wide as its widest cell."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
