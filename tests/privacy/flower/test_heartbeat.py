"""Heartbeats between processes: a stopped process is silent, a full disk and a set clock change nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from privacy.flower.heartbeat import Heartbeat, last_beat

BEATING = """
import sys, time
from pathlib import Path
from privacy.flower.heartbeat import Heartbeat
Heartbeat(Path(sys.argv[1]), every_s=0.05).start()
print("up", flush=True)
time.sleep(60)
"""


def test_a_stopped_process_is_silent_and_beats_again_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    process = subprocess.Popen([sys.executable, "-c", BEATING, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()

        def beats() -> bool:
            before = last_beat(path)
            time.sleep(0.5)
            return last_beat(path) != before

        assert beats()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        assert not beats()
        os.kill(process.pid, signal.SIGCONT)
        assert beats()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_beat_needs_no_room_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    heart = Heartbeat(path, every_s=0.0)
    heart.beat()
    first = last_beat(path)
    time.sleep(0.02)
    heart.beat()
    assert path.stat().st_size == 0
    assert first is not None
    assert last_beat(path) != first


def test_no_file_is_no_beat(tmp_path: Path) -> None:
    assert last_beat(tmp_path / "none") is None
    Heartbeat(tmp_path / "missing" / "beat").beat()  # the folder is gone: the work goes on
