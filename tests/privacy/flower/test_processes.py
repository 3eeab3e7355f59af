"""Supervision with real processes: nothing survives that should not."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from privacy.flower import processes
from privacy.flower.processes import Child, closed_environment, is_running, rotate, sole_instance
from shared_model.core.errors import InputError
from tests.builders.eventually import eventually


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def logged(tmp_path: Path) -> list[str]:
    """What the child of ``child`` has printed so far."""
    log = tmp_path / "log"
    return [json.loads(line)["text"] for line in log.read_text().splitlines()] if log.exists() else []


def child(tmp_path: Path, code: str) -> Child:
    return Child("test", [sys.executable, "-c", code], dict(os.environ), tmp_path / "log", tmp_path)


def test_no_flower_setting_of_the_shell_reaches_a_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_OIDC_ENABLED", "1")
    monkeypatch.setenv("NO_PROXY", "intranet")
    environment = closed_environment(tmp_path)
    flower = {name: value for name, value in environment.items() if name.startswith("FLWR_")}
    assert flower == {
        "FLWR_HOME": str(tmp_path),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    assert environment["NO_PROXY"] == "intranet,127.0.0.1,localhost"


def test_a_child_that_dies_starts_again_with_growing_delays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "FIRST_DELAY_S", 0.1)
    supervised = child(tmp_path, "import time; print(time.time(), flush=True); raise SystemExit(7)")
    supervised._delay_s = 0.1

    def fourth_start() -> bool:
        supervised.tick()
        return supervised.starts == 4

    assert eventually(fourth_start)
    assert eventually(lambda: len(logged(tmp_path)) == 4)
    times = [float(word) for word in logged(tmp_path)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] >= 0.1
    assert gaps[2] >= 0.4
    assert supervised.last_exit in (7, None)
    supervised.stop()


def test_stop_ends_the_whole_group_even_one_that_ignores_sigterm(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True); "
        "time.sleep(60)"
    )
    supervised = child(tmp_path, code)
    supervised.tick()
    assert eventually(lambda: bool(logged(tmp_path)))
    grandchild, pid = int(logged(tmp_path)[0]), supervised.pid
    assert pid is not None
    began = time.monotonic()
    supervised.stop(timeout_s=0.3)
    assert time.monotonic() - began < 10  # killed; both would sleep on for a minute
    assert eventually(lambda: not alive(grandchild) and not alive(pid))


def test_a_process_ends_with_a_killed_parent(tmp_path: Path) -> None:
    inner = (
        "from privacy.flower.processes import end_with_parent; import time; "
        "end_with_parent(); print(1, flush=True); time.sleep(60)"
    )
    outer = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE, start_new_session=True); "
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        assert eventually(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_one_instance_a_folder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_running(lock)
    with sole_instance(lock, "the site"):
        assert is_running(lock)
        with pytest.raises(InputError, match="already running"), sole_instance(lock, "the site"):
            pass
    assert not is_running(lock)


def test_logs_rotate_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    log = tmp_path / "a.log"
    for number in range(6):
        log.write_text(f"{number}" * 10)
        rotate(log)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log.1", "a.log.2", "a.log.3"]
    assert (tmp_path / "a.log.1").read_text() == "5" * 10
    assert (tmp_path / "a.log.3").read_text() == "3" * 10


def test_a_taken_port_is_bad_input_that_names_the_key() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"^control_port: "):
            processes.require_free_port("127.0.0.1", taken.getsockname()[1], "control_port")
    processes.require_free_port("127.0.0.1", processes.free_loopback_port(), "port")
