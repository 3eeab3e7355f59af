"""The round benchmark at toy size: a tree counts the same updates, and every figure is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from simulations.benchmarks.round_overhead import main, measure, measure_scaling
from simulations.engine.run import ProcessGrid


def test_a_tree_of_regions_takes_the_same_rounds() -> None:
    flat, tree = (measure(6, 2, 0.01, 1, regions) for regions in (0, 2))
    assert (flat["sites"], tree["sites"]) == (6, 6)
    assert (flat["regions"], tree["regions"]) == (0, 2)
    assert measure(6, 1, 0.01, 2, 2, ProcessGrid)["rounds"] == 1


def test_scaling_is_a_ratio_of_cpu_a_site() -> None:
    found = measure_scaling(3, 6, 1, 0.01)
    assert (found["few"], found["many"]) == (3, 6)
    assert found["ratio"] > 0


def test_several_numbers_of_sites_are_rows_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"round --sites 2 4 --rounds 1 --megabytes 0.01 --json --plot {tmp_path / 'sites.png'}"
    monkeypatch.setattr(sys, "argv", command.split())
    main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["sites"] for row in rows] == [2, 4]
    assert (tmp_path / "sites.png").read_bytes().startswith(b"\x89PNG")
