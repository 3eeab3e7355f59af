"""The log of a child: JSON lines, bounded while the child runs, and harmless whatever it prints."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.flower import process_log
from privacy.flower.process_log import JsonFormatter, ProcessLog, json_line


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_running_childs_log_stays_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_log, "LOG_BYTES", 2000)
    log = tmp_path / "a.log"
    code = "for number in range(500): print(f'line {number}', flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ProcessLog(log).follow(process.stdout)
        process.wait(30)
        end = time.monotonic() + 30
        while time.monotonic() < end and "line 499" not in log.read_text():
            time.sleep(0.05)
    assert sorted(os.listdir(tmp_path)) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    newest = [line["text"] for path in ("a.log.1", "a.log") for line in lines(tmp_path / path)]
    assert newest == [f"line {number}" for number in range(500 - len(newest), 500)]


def test_our_own_lines_stay_as_they_are_and_others_become_json(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "a.log")
    ours = json_line("trained", round=3)
    for line in (ours + "\n", "\x1b[92mINFO\x1b[0m:  up\n", '{"time": broken', "   \n"):
        log.write(line)
    first, second, third = lines(tmp_path / "a.log")
    assert first == json.loads(ours)
    assert (second["text"], third["text"]) == ("INFO:  up", '{"time": broken')


@given(st.text())
def test_any_text_is_one_json_line(text: str) -> None:
    line = json_line(text, extra=text)
    assert "\n" not in line
    assert json.loads(line)["text"] == text


def test_an_exceptions_text_stays_out() -> None:
    try:
        raise ValueError("DOE^JANE")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    shown = JsonFormatter().format(record)
    assert "DOE" not in shown
    assert json.loads(shown)["exception"] == "ValueError"
