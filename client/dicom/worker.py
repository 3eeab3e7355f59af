"""Parses untrusted files in a separate process, which has a limit on memory and is ended if a file takes too long.

A decoder that crashes, loops or asks for the whole machine's memory ends only this process: the file gets one clear
line, and the next file gets a new process. ``Worker`` runs it as ``python -m client.dicom.worker FD``.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from client.dicom.contours import contour_images, read_structures
from client.dicom.headers import read_header
from client.dicom.open import content_digest, open_source
from client.dicom.parts import read_ct_slice, read_dose_grid
from client.dicom.plan import read_plan
from shared_model.core.errors import FedKT3DError, InputError

MAX_SECONDS = 7.0
MAX_MEMORY_BYTES = 2 * 10**9
_START_SECONDS = 60.0
_TODO = "; export it again, or leave it out"
# Requests that are sent before the first answer: small, so that they fit into the connection.
AT_ONCE = 16

T = TypeVar("T")

_TASKS: dict[str, Callable[[Path], Any]] = {
    task.__name__: task
    for task in (
        *(read_header, read_ct_slice, read_dose_grid, read_plan, read_structures, contour_images),
        *(content_digest, open_source),
    )
}


class Worker:
    """A reading process, started when first needed and restarted after it had to be ended. Thread-safe."""

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._owner = 0

    def read(self, task: Callable[[Path], T], path: Path) -> T:
        """Run ``task(path)`` in the process. Raises the task's own FedKT3DError; InputError if the process fails."""
        (answer,) = self.read_many(task, [path])
        if isinstance(answer, FedKT3DError):
            raise answer
        return answer

    def read_many(self, task: Callable[[Path], T], paths: Sequence[Path]) -> list[T | FedKT3DError]:
        """``task`` of each path in order, or the error that reading it gave; asked for in one go, AT_ONCE at most."""
        if len(paths) > AT_ONCE:
            raise ValueError(f"{len(paths)} paths; expected at most {AT_ONCE}")
        answers: list[T | FedKT3DError] = []
        with self._lock:
            while len(answers) < len(paths):
                answers += self._ask(task.__name__, paths[len(answers) :])
        return answers

    def _ask(self, name: str, paths: Sequence[Path]) -> list[Any]:
        """Answers to the first paths: to all, or up to one that the process had to be ended for."""
        link = self._start()
        answers: list[Any] = []
        try:
            for path in paths:
                link.send((name, path))
            while len(answers) < len(paths):
                if not link.poll(self._max_seconds):
                    self._end()
                    return [
                        *answers,
                        InputError(
                            f"takes longer than {self._max_seconds:g} s to read; leave it out, or export it again"
                        ),
                    ]
                answers.append(link.recv())
        except (EOFError, OSError):
            self._end()
            answers.append(InputError(f"the reading process ended on it (damaged, or more memory than allowed){_TODO}"))
        return answers

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _start(self) -> Connection:
        if self._link is not None and self._owner == os.getpid():
            return self._link
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "client.dicom.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # decoders quote the values that they warn of
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        self._link, self._owner = Connection(ours.detach()), os.getpid()
        try:
            ready = self._link.poll(_START_SECONDS) and self._link.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            self._end()
            raise FedKT3DError("the process that reads DICOM did not start; is the installation complete?")
        return self._link

    def _end(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        if self._link is not None:
            self._link.close()
        self._process = self._link = None


@lru_cache(maxsize=1)
def worker() -> Worker:
    """Return this process's own reading process. When this process ends, the connection closes and it ends too."""
    return Worker()


def main() -> None:
    """Answer requests until the connection closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    link = Connection(int(sys.argv[1]))
    link.send(True)
    while True:
        try:
            name, path = link.recv()
        except (EOFError, OSError):
            return
        try:
            answer: Any = _TASKS[name](path)
        except FedKT3DError as error:
            answer = error
        except (MemoryError, RecursionError) as error:
            answer = InputError(f"takes too much memory ({type(error).__name__}); not read")
        except Exception as error:  # its text may quote a record
            answer = InputError(f"cannot be read ({type(error).__name__}); export it again")
        link.send(answer)


if __name__ == "__main__":
    main()
