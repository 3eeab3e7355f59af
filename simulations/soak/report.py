"""The soak's result: what happened when, who had to act, what was charged, and what grew; as CSV and as Markdown."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from shared_model.core.files import ORDINARY, write_text
from simulations.soak.ledgers import SiteCharges


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault. Times in seconds: ``at`` since the first round began, ``back_s`` from the strike to the next answer of
    the victim (of a round, for the coordinator). ``acted``: who had to, ``expected``: who should have had to."""

    number: int
    at: float
    round: int
    fault: str
    victim: str
    expected: str
    acted: str
    back_s: float
    rounds_meanwhile: int
    said: str

    @property
    def good(self) -> bool:
        """Whether nobody had to act who should not have."""
        return self.acted in (self.expected, "nobody")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Disk (files) and memory (resident, shared pages counted in each process) in 10^6 bytes, at one moment."""

    when: str
    round: int
    memory: float
    disk: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that a soak found. ``why``: why it ended before its last round; empty where it did not."""

    seed: int
    rounds: int
    done: int
    wall_s: float
    why: str
    resumed: int
    skipped: dict[str, str]
    rows: Sequence[Row]
    accounts: Sequence[SiteCharges]
    sizes: Sequence[Size]

    @property
    def good(self) -> bool:
        """Whether all rounds were done, nobody had to act unexpectedly, and no charge is without a release."""
        finished = self.done == self.rounds and not self.why
        return finished and all(row.good for row in self.rows) and not any(a.unexplained for a in self.accounts)


def write(result: Result, out: Path) -> None:
    """Write ``faults.csv`` and ``soak.md`` below ``out``."""
    with (out / "faults.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in result.rows)
    write_text(out / "soak.md", "\n".join(lines(result)) + "\n", mode=ORDINARY)


def lines(result: Result) -> list[str]:
    """Return the result as Markdown."""
    found = [
        f"{result.done} of {result.rounds} rounds in {result.wall_s / 60:.0f} minutes, seed {result.seed},"
        f" {len(result.rows)} faults; `server run --resume` was typed {result.resumed} times.",
        *([f"Ended early: {result.why}."] if result.why else []),
        *(f"Skipped: {name} ({why})." for name, why in result.skipped.items()),
        "",
        *_table(["fault", "struck", "expected", "acted", "back after s, median", "at most"], _by_kind(result.rows)),
        "",
        *_table(
            ["#", "s", "round", "fault", "victim", "expected", "acted", "back after s", "rounds meanwhile", "it said"],
            [
                [
                    *(r.number, f"{r.at:.0f}", r.round, r.fault, r.victim, r.expected, r.acted),
                    *(f"{r.back_s:.0f}", r.rounds_meanwhile, r.said),
                ]
                for r in result.rows
            ],
        ),
        "",
        *_table(
            ["site", "charges", "rounds it is in", "rounds charged again after a failed attempt", "unexplained"],
            [[a.site, a.charges, a.in_sums, a.again, len(a.unexplained)] for a in result.accounts],
        ),
        "",
        *_table(
            ["when", "round", "memory MB", "coordinator MB", "largest site MB", "logs of all MB"],
            [
                [
                    *(s.when, s.round, f"{s.memory:.0f}", f"{s.disk['coordinator']:.1f}"),
                    *(f"{_largest(s.disk):.2f}", f"{s.disk['logs']:.2f}"),
                ]
                for s in result.sizes
            ],
        ),
    ]
    return found


def _by_kind(rows: Sequence[Row]) -> list[list[object]]:
    """A row for each kind of fault: how often it struck, who had to act, and how long the victim was away."""
    found: list[list[object]] = []
    for kind in sorted({row.fault for row in rows}):
        of = [row for row in rows if row.fault == kind]
        acted = ", ".join(f"{who} {sum(row.acted == who for row in of)}" for who in sorted({row.acted for row in of}))
        away = [row.back_s for row in of]
        found.append([kind, len(of), of[0].expected, acted, f"{statistics.median(away):.0f}", f"{max(away):.0f}"])
    return found


def _largest(disk: dict[str, float]) -> float:
    return max(size for name, size in disk.items() if name not in ("coordinator", "logs"))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    shown = [[str(cell).replace("|", "/") for cell in row] for row in rows]
    rule = "|" + "---|" * len(head)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in shown)]
