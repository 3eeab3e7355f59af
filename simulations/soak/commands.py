"""Runs `client` and `server` commands in forks of one process that has loaded both programs and torch already.

Setting up six nodes takes 26 commands. Most of their time is Python's start: 8 s of a processor for each that loads
torch, on a machine that has one to spare. A fork begins where that ends, and does what the console script does. What
stays alive (`start`, `run`) is started as people start it.

``python -m simulations.soak.commands`` is that process: it reads one list of arguments a line and answers each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO

TIMEOUT_S = 300.0


class Commands:
    """The forking process, from the first command on; it ends with this one, or with ``close``."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment, self._folder = dict(environment), folder
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; the first argument is `client` or `server`."""
        with self._lock:
            if self._process is None:
                command = [sys.executable, "-m", __name__]
                self._process = subprocess.Popen(
                    command,
                    env=self._environment,
                    cwd=self._folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            asked, told = self._process.stdin, self._process.stdout
            assert asked is not None
            assert told is not None
            asked.write(json.dumps(arguments) + "\n")
            asked.flush()
            code, out, error = json.loads(told.readline() or '[1, "", "the process that runs commands ended"]')
        return subprocess.CompletedProcess(list(arguments), code, out, error)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.communicate()
                self._process = None


def _programs() -> dict[str, Callable[[], None]]:
    """Return what the installed console scripts call: the harness knows the public commands and no module behind."""
    import shared_model.backbone.prior  # noqa: F401  # torch, which some of the commands need

    scripts = entry_points(group="console_scripts")
    return {name: scripts[name].load() for name in ("client", "server")}


def _fork(program: Callable[[], None], arguments: list[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of ``program`` in a child."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        pid = os.fork()
        if pid == 0:
            _be(program, arguments, out, error)
        watch = threading.Timer(TIMEOUT_S, os.kill, (pid, signal.SIGKILL))
        watch.start()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        watch.cancel()
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return code, texts[0], texts[1]


def _be(program: Callable[[], None], arguments: list[str], out: IO[bytes], error: IO[bytes]) -> None:
    """Be the command; does not return."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(error.fileno(), 2)
        sys.argv = arguments
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer each line on standard input until it ends."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes to the harness
    programs = _programs()
    for line in sys.stdin:
        arguments = json.loads(line)
        print(json.dumps(_fork(programs[arguments[0]], arguments)), file=told, flush=True)


if __name__ == "__main__":
    main()
