"""The rules of the systemd units, kept by the soak: restarts, whole groups; and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.soak import units
from simulations.soak.units import Supervisor, Unit, end_all, marked
from tests.builders.eventually import eventually

LOOP = "import time\nwhile True: time.sleep(0.1)"
# A child in a session of its own, as `start` makes them.
PARENT = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {LOOP!r}], start_new_session=True)\n{LOOP}"


@pytest.fixture
def mark() -> Iterator[str]:
    made = uuid.uuid4().hex
    yield made
    end_all(made)


def unit(mark: str, folder: Path, code: str) -> Unit:
    return Unit("site", [sys.executable, "-c", code], folder, mark, dict(os.environ))


def test_a_killed_program_starts_again_and_leaves_no_child(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "RESTART_S", 0.1)
    one = unit(mark, tmp_path, PARENT)
    one.start()
    assert eventually(lambda: len(marked(one.mark)) == 2)
    before, first = marked(one.mark), one.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: one.tick() is None and one.pid not in (None, first))
    assert eventually(lambda: len(marked(one.mark)) == 2)
    assert not set(before) & set(marked(one.mark))
    assert one.restarts == 1
    one.stop()
    assert eventually(lambda: marked(mark) == [])


@pytest.mark.parametrize("code", [2, 3])
def test_what_needs_a_person_is_not_started_again(mark: str, tmp_path: Path, code: int) -> None:
    one = unit(mark, tmp_path, f"raise SystemExit({code})")
    one.start()
    assert eventually(lambda: one.tick() is None and one.failed)
    one.tick()
    assert (one.pid, one.restarts) == (None, 0)


def test_ten_starts_in_ten_minutes_are_enough(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "RESTART_S", 0.0)
    one = unit(mark, tmp_path, "raise SystemExit(1)")
    one.start()
    assert eventually(lambda: one.tick() is None and one.failed, 60)
    assert one.restarts == units.MOST_STARTS - 1


def test_a_harness_that_is_killed_leaves_nothing_behind(mark: str, tmp_path: Path) -> None:
    code = f"""\
import os, sys, time
from pathlib import Path
from tests.builders.eventually import eventually
from simulations.soak.units import Supervisor, Unit
with Supervisor({mark!r}, lambda: None) as found:
    command = [sys.executable, "-c", {PARENT!r}]
    found.units["x"] = Unit("x", command, Path({str(tmp_path)!r}), {mark!r}, dict(os.environ))
    found.units["x"].start()
    time.sleep(60)
"""
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    assert eventually(lambda: len(marked(mark)) == 2)
    harness.kill()
    harness.wait()
    assert eventually(lambda: marked(mark) == [])


def test_an_error_of_the_supervisors_thread_is_kept(mark: str) -> None:
    def fail() -> None:
        raise ValueError("x")

    with Supervisor(mark, fail) as found:
        assert eventually(lambda: found.error is not None)
