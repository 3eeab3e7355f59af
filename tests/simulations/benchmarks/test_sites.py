"""The benchmark of many sites at toy size: a tree counts the same updates, and every figure is there."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest

from simulations.benchmarks.sites import main, measure, measure_scaling
from simulations.engine.run import ProcessGrid


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_a_tree_of_regions_takes_the_same_rounds() -> None:
    flat, tree = (measure(6, 2, 0.01, 1, regions) for regions in (0, 2))
    assert (flat["sites"], tree["sites"]) == (6, 6)
    assert (flat["regions"], tree["regions"]) == (0, 2)
    assert flat["wire_ratio"] == pytest.approx(tree["wire_ratio"], rel=0.01)


def test_processes_count_in_cpu_and_memory() -> None:
    found = measure(6, 1, 0.01, 2, 2, ProcessGrid)
    own, other = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    assert other > 0
    assert found["peak_gb"] == pytest.approx((own + 2 * other) / 1e6, abs=0.02)
    assert found["rounds"] == 1


def test_scaling_is_a_ratio_of_cpu_a_site_and_number() -> None:
    found = measure_scaling((3, 0.01), (6, 0.02), 1)
    assert (found["few_sites"], found["many_sites"]) == (3, 6)
    assert (found["few_mb"], found["many_mb"]) == (0.01, 0.02)
    assert found["ratio"] > 0
    assert found["few_ms"] > 0


def test_several_numbers_of_sites_are_rows_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"sites --sites 2 4 --rounds 1 --megabytes 0.01 --json --plot {tmp_path / 'sites.png'}"
    monkeypatch.setattr(sys, "argv", command.split())
    main()
    found = rows(capsys)
    assert [row["sites"] for row in found] == [2, 4]
    assert all({"wall_s", "peak_gb"} <= set(row) for row in found)
    # Both ways of the vector, and a little for what goes with it.
    assert all(1.0 < row["wire_ratio"] < 1.5 for row in found)
    assert (tmp_path / "sites.png").read_bytes().startswith(b"\x89PNG")


def test_a_ratio_needs_two_sizes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sites", "--sites", "2", "--ratio"])
    with pytest.raises(SystemExit):
        main()
    assert "expected two numbers" in capsys.readouterr().err
