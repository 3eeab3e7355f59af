"""Run Flower's programs as child processes: closed environment, own process group, restarts with back-off.

Both the coordinator and a site run Flower's programs this way. The environment is closed in this sense: no FLWR_*
setting of the caller's shell reaches a child, telemetry and update checks are off, and every role has its own
FLWR_HOME. So no run depends on anything outside the role's folder, or sends anything to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from privacy.flower.process_log import LOG_BYTES, LOG_KEPT, ProcessLog
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_json

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STABLE_AFTER_S = 60.0  # after a child has lived this long, its next restart waits only the first delay
STOP_TIMEOUT_S = 10.0
LOOPBACK = "127.0.0.1"


def closed_environment(flwr_home: Path) -> dict[str, str]:
    """Return a child's environment: the caller's without FLWR_* and passphrase, with Flower's offline switches."""
    left_out = ("FLWR_", "FEDKT3D_PASSPHRASE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    environment |= {
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",  # otherwise a line for each request, at the SuperLink and at each site
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # do not import from a folder in the working directory that is named like our packages
        # SuperExec starts flwr-serverapp by its bare name.
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), environment.get("PATH", os.defpath)]),
    }
    for name in ("NO_PROXY", "no_proxy"):  # the local channel never goes through a hospital's web proxy
        environment[name] = ",".join(filter(None, [environment.get(name), LOOPBACK, "localhost"]))
    return environment


def flower_program(name: str) -> str:
    """Return the path of one of Flower's console programs in this installation; InputError when it is missing."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        raise InputError(f"{name}: not found beside {sys.executable}; install fedkt3d with its dependencies (flwr)")
    return str(path)


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our installed modules. Python does not search the working directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


class Child:
    """One supervised program in its own process group. Its output goes to a bounded log (process_log.py)."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path, folder: Path) -> None:
        self.name = name
        self.starts = 0
        self.last_exit: int | None = None
        self._command = list(command)
        self._environment = environment
        self._log = ProcessLog(log)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._next_start = 0.0
        self._delay_s = FIRST_DELAY_S

    @property
    def pid(self) -> int | None:
        """Process id while the program runs, else None."""
        return self._process.pid if self._process is not None else None

    def tick(self) -> None:
        """Note an exit. Start the program if it is not running and its back-off is over."""
        now = time.monotonic()
        if self._process is not None:
            self.last_exit = self._process.poll()
            if self.last_exit is None:
                return
            self._signal_group(signal.SIGKILL)  # whatever it left behind
            self._process = None
            if now - self._started_at > STABLE_AFTER_S:
                self._delay_s = FIRST_DELAY_S
            self._next_start = now + self._delay_s
            self._delay_s = min(self._delay_s * 2, LONGEST_DELAY_S)
        if now >= self._next_start:
            self._start(now)

    def _start(self, now: float) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._log.follow(self._process.stdout)
        self._started_at = now
        self.starts += 1

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the program and everything it started: SIGTERM to the group, SIGKILL after `timeout_s`."""
        if self._process is None:
            return
        self._signal_group(signal.SIGTERM)
        self._signal_group(signal.SIGCONT)  # a stopped process gets its SIGTERM only once it goes on
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._signal_group(signal.SIGKILL)
        self.last_exit = self._process.wait()
        self._process = None

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)  # start_new_session made the pid the group's id


def supervise(children: Sequence[Child], on_tick: Callable[[], None], tick_s: float = 0.25) -> None:
    """Keep `children` running until SIGTERM, SIGINT or SIGHUP. Then stop them in the given order and return.

    A SIGHUP that the caller had ignored, as ``nohup`` does, stays ignored. SIGINT does not: a shell's ``&`` sets that
    too, and whoever sends it by hand means it.

    List a child before the children that it needs: it starts after them and stops before them. `on_tick` runs after
    each look at the children (state file, screen). Call this in the main thread: it installs signal handlers.
    """
    stopping = threading.Event()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        while not stopping.is_set():
            for child in reversed(children):
                child.tick()
            on_tick()
            stopping.wait(tick_s)
    finally:
        for child in children:
            child.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Send this process SIGTERM once its parent is gone. So a killed supervisor leaves no process behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_TIMEOUT_S)
        os._exit(1)  # a handler that hangs must not keep a stray node alive

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


@contextmanager
def sole_instance(lock: Path, what: str) -> Iterator[None]:
    """Hold `lock` during the block; InputError when another process holds it."""
    with lock.open("a") as file:
        if not _try_lock(file):
            raise InputError(f"{what} is already running for {lock.parent}; stop it first")
        yield


def is_running(lock: Path) -> bool:
    """Return whether a process holds `lock` (see `sole_instance`). The lock ends when its process ends, in any way.

    Nothing is written, so that a folder which is mounted read-only can be looked at.
    """
    try:
        with lock.open() as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _try_lock(file: IO[str], how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def rotate(log: Path) -> None:
    """When `log` has grown over LOG_BYTES, move it to `log.1`, `log.1` to `log.2`, and so on; keep LOG_KEPT of them."""
    if not log.exists() or log.stat().st_size < LOG_BYTES:
        return
    for index in range(LOG_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{index}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{index + 1}"))
    log.replace(log.with_name(f"{log.name}.1"))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the JSON file at `path`, so that a reader never sees half of it. A power cut may lose it: no syncs."""
    write_json(path, state, ORDINARY, durable=False)


def read_state(path: Path) -> dict[str, Any]:
    """Return the JSON object at `path`, or an empty one when there is none yet."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def free_loopback_port() -> int:
    """Return a TCP port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free_port(host: str, port: int, key: str) -> None:
    """Raise InputError naming `key` when (host, port) is taken or is not an address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{key}: cannot listen on {host}:{port} ({error.strerror}); choose another") from error
