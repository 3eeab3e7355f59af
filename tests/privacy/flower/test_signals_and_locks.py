"""What a supervisor does at a signal, and how a folder is looked at that nobody may write to."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from privacy.flower.processes import closed_environment, is_running, sole_instance

SUPERVISE = """
import signal, sys
signal.signal(signal.SIGHUP, signal.{before})
from privacy.flower.processes import supervise
said = []
supervise([], lambda: said or (said.append(1), print("up", flush=True)), tick_s=0.05)
"""


@pytest.mark.parametrize(("before", "stays"), [("SIG_IGN", True), ("SIG_DFL", False)])
def test_nohup_holds_and_a_closed_terminal_ends_it(before: str, stays: bool) -> None:
    script = SUPERVISE.format(before=before)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert (process.poll() is None) is stays
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_looking_at_a_lock_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    with sole_instance(lock, "the site"):
        opened = Path.open

        def read_only(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if set(mode) & set("wa+"):
                raise OSError(30, "Read-only file system")
            return opened(path, mode, *rest, **named)

        monkeypatch.setattr(Path, "open", read_only)
        assert is_running(lock)
    assert not is_running(lock)


def test_flowers_line_for_each_request_is_not_logged(tmp_path: Path) -> None:
    """Measured before: 370 kB a site in 100 rounds, and a line for each call in the SuperLink's log."""
    code = "import logging; from flwr.supercore.logger import log; log(logging.INFO, 'a call'); log(30, 'a warning')"
    environment = closed_environment(tmp_path)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "a warning" in result.stdout + result.stderr
    assert "a call" not in result.stdout + result.stderr
