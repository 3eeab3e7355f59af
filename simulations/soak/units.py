"""Processes under the rules of our systemd units (deploy/systemd), where no systemd is: restarts, limits, whole groups.

Each unit's processes carry a mark in their environment, which their children inherit. So what a killed supervisor left
behind is found and ended, as systemd ends a unit's control group. Linux only: the marks are read in /proc.

``python -m simulations.soak.units MARK`` is the guard: it waits for the end of its standard input, which is the end of
the harness in whatever way, and then ends what the harness left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# As in deploy/systemd; tests/test_deploy_files.py compares them.
RESTART_S = 5.0
STOP_S = 40.0
NEEDS_A_PERSON = (2, 3)
MOST_STARTS, WITHIN_S = 10, 600.0
MARK = "FEDKT3D_SOAK"


def marked(mark: str) -> list[int]:
    """Return the ids of living processes, zombies left out, whose environment holds ``mark``; never this one."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            if any(word == wanted or word.startswith(wanted + b".") for word in words):
                found.append(int(entry.name))
    return found


def end_all(mark: str) -> int:
    """Kill every process with ``mark``; returns how many there were."""
    pids = marked(mark)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def memory_mb(mark: str) -> float:
    """Resident memory of the processes with ``mark``, in 10^6 bytes; what they share is counted for each."""
    total = 0
    for pid in marked(mark):
        with suppress(OSError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


def guard(mark: str) -> subprocess.Popen[bytes]:
    """Start the guard. Its standard input must stay open as long as the harness lives, and is closed at its end."""
    return subprocess.Popen([sys.executable, "-m", __name__, mark], stdin=subprocess.PIPE, start_new_session=True)


class Unit:
    """One program that is kept alive. ``failed``: it ended in a way that only a person can mend, and stays down."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, mark: str, environment: dict[str, str]) -> None:
        self.name, self.mark = name, f"{mark}.{name}"
        self.failed = False
        self.restarts = 0
        self._command, self._folder = list(command), folder
        self._environment = {**environment, MARK: self.mark}
        self._process: subprocess.Popen[bytes] | None = None
        self._starts: list[float] = []
        self._due: float | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """Process id of the program itself while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it, as `systemctl start` does; a failure of before is forgotten."""
        with self._lock:
            self.failed, self._starts = False, []
            self._launch()

    def stop(self) -> None:
        """Stop it, as `systemctl stop` does: SIGTERM to the program, then the end of all that it left."""
        with self._lock:
            self._due = None
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_S)
            end_all(self.mark)
            if self._process is not None:
                self._process.wait()
            self._process = None

    def tick(self) -> None:
        """Note an exit; start it again when its pause is over."""
        with self._lock:
            now = time.monotonic()
            if self._process is not None and self._process.poll() is not None:
                code = self._process.returncode
                self._process = None
                end_all(self.mark)
                self._starts = [at for at in self._starts if now - at < WITHIN_S]
                self.failed = code in NEEDS_A_PERSON or len(self._starts) >= MOST_STARTS
                self._due = None if self.failed else now + RESTART_S
            if self._process is None and self._due is not None and now >= self._due:
                self.restarts += 1
                self._launch()

    def _launch(self) -> None:
        self._due = None
        self._starts.append(time.monotonic())
        with (self._folder / f"{self.name}.out").open("ab") as out:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


class Supervisor:
    """Looks after units from a thread of its own and calls ``also`` each time; a context that leaves nothing behind."""

    def __init__(self, mark: str, also: Callable[[], None]) -> None:
        self.units: dict[str, Unit] = {}
        self._mark, self._also = mark, also
        self._over = threading.Event()
        self._guard: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Supervisor:
        self._guard = guard(self._mark)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for unit in list(self.units.values())[::-1]:
            unit.stop()
        end_all(self._mark)
        if self._guard is not None:
            self._guard.communicate()

    def _run(self) -> None:
        while not self._over.wait(0.25):
            try:
                for unit in list(self.units.values()):
                    unit.tick()
                self._also()
            except Exception as error:  # the main thread raises it
                self.error = error
                return


def main() -> None:
    """Be the guard of the mark in the first argument."""
    sys.stdin.buffer.read()
    while end_all(sys.argv[1]):
        time.sleep(0.2)


if __name__ == "__main__":
    main()
