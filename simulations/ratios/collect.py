"""``python -m simulations.ratios.collect``: run the benchmarks, add their ratios to the record, or check against it.

The record is docs/results/benchmarks.json, a list of runs, the newest last; docs/results/benchmarks.md shows the
newest. With ``--check`` nothing is written: the command ends with 1 where a ratio has become worse. A ratio is worse if
the least of this run is above the most of the last record by more than TOLERANCE, so that a busy machine raises no
alarm. Every command runs once in each repeat, all of them in turn, but for what takes minutes, which runs once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.files import ORDINARY, write_text
from simulations.ratios.benchmarks import BENCHMARKS, Benchmark
from simulations.reports.machine import cpu_name

RECORD = Path("docs/results/benchmarks.json")
TOLERANCE = 1.3


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A ratio over the repeats of one run."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        return cls(median=round(statistics.median(values), 4), low=round(min(values), 4), high=round(max(values), 4))

    def cell(self) -> str:
        """For a table."""
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: when, on what machine, how many repeats, and the ratios by name."""

    date: str
    machine: str
    repeats: int
    ratios: Mapping[str, Spread]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Record:
        """Read one entry of the record."""
        return cls(**{**plain, "ratios": {name: Spread(**of) for name, of in plain["ratios"].items()}})


def collect(benchmarks: Mapping[str, Benchmark], repeats: int) -> Record:
    """Run every benchmark that can run here, ``repeats`` times in turn. FedKT3DError names one that fails."""
    values: dict[str, list[float]] = {}
    for repeat in range(repeats):
        printed: dict[tuple[str, ...], Any] = {}
        for name, benchmark in benchmarks.items():
            if not benchmark.runs_here or (benchmark.once and repeat):
                continue
            if benchmark.command not in printed:
                printed[benchmark.command] = _printed(name, benchmark)
            values.setdefault(name, []).append(benchmark.read(printed[benchmark.command]))
    return Record(
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{cpu_name()}, {os.cpu_count()} cores",
        repeats=repeats,
        ratios={name: Spread.of(found) for name, found in values.items()},
    )


def _printed(name: str, benchmark: Benchmark) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", *benchmark.command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        pass
    raise FedKT3DError(f"benchmark {name}: {' '.join(benchmark.command)} ended with {done.returncode} and no JSON")


def read_record(path: Path) -> list[Record]:
    """Read all runs of the record, the newest last; none where there is no file. InputError for one that is damaged."""
    if not path.exists():
        return []
    try:
        return [Record.from_plain(one) for one in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no record of benchmarks ({type(error).__name__})") from error


def worse(now: Record, then: Record) -> list[str]:
    """Ratios that have become worse, each as a line."""
    return [
        f"{name}: {ratio.cell()}, on {then.date} {then.ratios[name].cell()}"
        for name, ratio in now.ratios.items()
        if name in then.ratios and ratio.low > TOLERANCE * then.ratios[name].high
    ]


_PAGE = """# Benchmarks

Ratios of two things that were measured in one run, or of a figure and its limit; less is better. `make bench` measures
them again, adds them to `benchmarks.json` and writes this page. `make bench-check` compares with the last run, and
fails where a ratio is worse by more than {tolerance:.0%} outside both spreads. `make bench-tables` prints each
benchmark at its full size.

{date}, {machine}, {repeats} repeats in turn.

| what | ratio (least to most) | goal |
|---|---:|---:|
{rows}
"""


def page(record: Record, benchmarks: Mapping[str, Benchmark]) -> str:
    """The newest run as Markdown."""
    rows = []
    for name, benchmark in benchmarks.items():
        needs = ", ".join(filter(None, (benchmark.needs, *benchmark.programs)))
        missing = f"not run (needs {needs})" if needs else "not run"
        found = record.ratios[name].cell() if name in record.ratios else missing
        rows.append(f"| {benchmark.what} | {found} | {benchmark.goal or '-'} |")
    return _PAGE.format(
        tolerance=TOLERANCE - 1,
        date=record.date,
        machine=record.machine,
        repeats=record.repeats,
        rows="\n".join(rows),
    )


def main() -> int:
    """Record, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the last record; write nothing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--record", type=Path, default=RECORD)
    asked = parser.parse_args()
    earlier = read_record(asked.record)
    if asked.check and not earlier:
        raise InputError(f"{asked.record}: nothing is recorded yet; `make bench` records")
    chosen = {name: BENCHMARKS[name] for name in asked.only}
    now = collect(chosen, asked.repeats)
    print("\n".join(f"{name:14} {ratio.cell()}" for name, ratio in now.ratios.items()))
    if asked.check:
        found = worse(now, earlier[-1])
        print("\n".join(["worse:", *found]) if found else f"no ratio is worse than on {earlier[-1].date}")
        return int(bool(found))
    write_text(asked.record, json.dumps([asdict(one) for one in [*earlier, now]], indent=1) + "\n", mode=ORDINARY)
    write_text(asked.record.with_suffix(".md"), page(now, BENCHMARKS), mode=ORDINARY)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
