"""The record of ratios: read, spread, compared, written as a page."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shared_model.core.errors import FedKT3DError, InputError
from simulations.ratios import collect as module
from simulations.ratios.benchmarks import BENCHMARKS, Benchmark
from simulations.ratios.collect import Record, Spread, collect, main, page, read_record, worse
from simulations.reports.machine import cpu_name


# json.tool prints the file that it is given: a benchmark that takes no time.
def told(path: Path, content: str) -> tuple[str, ...]:
    path.write_text(content)
    return ("json.tool", "--compact", str(path))


def record(**ratios: float) -> Record:
    spreads = {name: Spread(median=value, low=0.9 * value, high=1.1 * value) for name, value in ratios.items()}
    return Record(date="2026-01-01", machine="m", repeats=3, ratios=spreads)


def test_every_benchmark_that_can_run_is_read_in_each_repeat(tmp_path: Path) -> None:
    one = Benchmark(what="a", command=told(tmp_path / "a", '{"ratio": 2.5}'), read=lambda found: found["ratio"])
    absent = replace(one, needs="no_such_package_at_all")
    found = collect({"one": one, "absent": absent}, 3)
    assert found.ratios == {"one": Spread(median=2.5, low=2.5, high=2.5)}
    assert found.repeats == 3
    assert found.machine.startswith(cpu_name())
    broken = replace(one, command=told(tmp_path / "b", "no json"))
    with pytest.raises(FedKT3DError, match=r"benchmark broken: json\.tool"):
        collect({"broken": broken}, 1)


def test_what_takes_minutes_runs_once(tmp_path: Path) -> None:
    taken: list[float] = []

    def read(found: dict[str, float]) -> float:
        taken.append(found["ratio"])
        return found["ratio"]

    slow = Benchmark(what="a", command=told(tmp_path / "a", '{"ratio": 2.5}'), read=read, once=True)
    assert collect({"slow": slow}, 3).ratios["slow"].median == 2.5
    assert taken == [2.5]


def test_worse_is_outside_both_spreads_and_the_tolerance() -> None:
    then = record(a=1.0, b=1.0, gone=1.0)
    assert worse(record(a=1.5, b=0.2, new=9.0), then) == []
    assert [line.split(":")[0] for line in worse(record(a=1.6, b=1.0), then)] == ["a"]


def test_the_ratios_are_read_from_what_the_benchmarks_print() -> None:
    secagg = {
        "1": {
            "ring-32": [{"client_s": 1.0, "unmask_s": 2.0}],
            "flwr": [{"client_s": 6.0, "quantise_s": 2.0, "unmask_s": 8.0}],
        }
    }
    assert BENCHMARKS["secagg_client"].read(secagg) == 0.25
    assert BENCHMARKS["secagg_unmask"].read(secagg) == 0.25
    rows = [{"part": "plain step", "of_plain_step": 1.0}, {"part": "private step", "of_plain_step": 1.5}]
    assert BENCHMARKS["private_step"].read(rows) == 1.5
    assert BENCHMARKS["wire_masks"].read({"millions": 1.0, "masked_mb_a_site": 10.0}) == 1.25
    cpu_s = {
        "structures: plain loop": 4.0,
        "structures: ours": 1.0,
        "study: plain loop, without plates": 8.0,
        "study: ours, without plates": 6.0,
    }
    assert BENCHMARKS["reading"].read({"cpu_s": cpu_s}) == 0.75
    assert BENCHMARKS["reading_structures"].read({"cpu_s": cpu_s}) == 0.25


def test_it_records_writes_the_page_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "benchmarks.json"
    monkeypatch.setattr(sys, "argv", ["collect", "--record", str(path), "--check"])
    with pytest.raises(InputError, match="nothing is recorded"):
        main()
    monkeypatch.setattr(module, "collect", lambda chosen, repeats: record(masks=1.0))
    monkeypatch.setattr(sys, "argv", ["collect", "--record", str(path)])
    assert main() == 0
    assert main() == 0
    assert [asdict(one) for one in read_record(path)] == json.loads(path.read_text())
    assert len(read_record(path)) == 2
    shown = (tmp_path / "benchmarks.md").read_text()
    assert "1 (0.9 to 1.1) | - |" in shown
    assert "not run (needs ray)" in shown
    assert "not run (needs nvflare)" in shown
    monkeypatch.setattr(sys, "argv", ["collect", "--record", str(path), "--check"])
    assert main() == 0
    monkeypatch.setattr(module, "collect", lambda chosen, repeats: record(masks=2.0))
    assert main() == 1
    assert "masks: 2 (1.8 to 2.2), on 2026-01-01 1 (0.9 to 1.1)" in capsys.readouterr().out
    path.write_text("[1]")
    with pytest.raises(InputError, match="no record of benchmarks"):
        read_record(path)


def test_the_page_in_the_docs_is_that_of_the_last_record() -> None:
    found = read_record(module.RECORD)
    assert found
    assert module.RECORD.with_suffix(".md").read_text() == page(found[-1], BENCHMARKS)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", one.date) for one in found)
