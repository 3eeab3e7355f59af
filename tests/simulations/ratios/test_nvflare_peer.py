import json
import sys
from pathlib import Path

import pytest

from simulations.ratios.nvflare_peer import beside_nvflare, peer, round_starts


def test_a_rounds_time_is_read_from_the_servers_log(tmp_path: Path) -> None:
    said = [
        ("2026-11-30 06:12:27,992", "Create the Simulator Server."),
        ("2026-11-30 06:12:30,590", "Sampled clients: ['site-1', 'site-2']"),
        ("2026-11-30 06:12:44,959", "Aggregated 1/2 results"),
        ("2026-11-30 06:12:52,694", "Sampled clients: ['site-1', 'site-2']"),
    ]
    log = tmp_path / "log.json"
    log.write_text("".join(json.dumps({"asctime": at, "message": message}) + "\n" for at, message in said))
    first, second = round_starts(log)
    assert (second - first).total_seconds() == pytest.approx(22.104)


def test_an_environment_without_nvflare_is_told_by_what_python_says(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)began 0 of 3 rounds:.*No module named 'nvflare'"):
        peer(Path(sys.executable), sites=2, rounds=3, size=10, workers=1)


def test_nvflares_interpreter_is_the_one_beside_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert beside_nvflare() is None
    (tmp_path / "nvflare").write_text("#!/bin/sh\n")
    (tmp_path / "nvflare").chmod(0o755)
    assert beside_nvflare() == tmp_path / "python"
