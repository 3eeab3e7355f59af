"""What masks and slow sites cost a round, at toy size: every figure is there."""

from __future__ import annotations

import json
import sys

import pytest

from simulations.benchmarks.round_overhead import main


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str) -> dict[str, float]:
    monkeypatch.setattr(sys, "argv", ["round", *asked.split(), "--repeats", "1", "--json"])
    main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return dict(json.loads(line))


def test_masks_stand_beside_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(monkeypatch, capsys, "--masks --sites 3 --rounds 1 --megabytes 0.04")
    assert found["ratio"] > 0
    assert found["masked_mb_a_site"] >= found["none_mb_a_site"] >= 0.08


def test_as_many_updates_go_in_with_a_slow_site(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(monkeypatch, capsys, "--slow 2")
    assert found["updates_waiting"] == found["updates_buffered"] == 20
    assert found["ratio"] > 0
