"""Trials of a series side by side, each in a spawned process of its own.

A trial that fails, or whose process is killed, stops no other one. What a trial would say under its progress bars goes
to its log. Trials share files that are written whole (shared_model/core/files.py), so no trial sees half of one.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from shared_model.core.errors import FedKT3DError

_SPAWN = multiprocessing.get_context("spawn")  # torch has threads, which a fork would lose


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """``work`` can be pickled and leaves its result in files; ``log`` gets what it says meanwhile."""

    work: Callable[[Progress], object]
    log: Path


def side_by_side(jobs: Sequence[TrialJob], workers: int) -> Iterator[tuple[int, str]]:
    """Run ``workers`` jobs at a time; yields the place of each one as it ends, and why it failed (empty: it did not).

    If the caller stops, the processes are ended.
    """
    running: set[BaseProcess] = set()
    pool = ThreadPoolExecutor(workers)
    try:
        places = {pool.submit(_in_process, job, running): place for place, job in enumerate(jobs)}
        for future in as_completed(places):
            yield places[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _in_process(job: TrialJob, running: set[BaseProcess]) -> str:
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_work, args=(job, theirs), name="trial")
    process.start()
    running.add(process)
    theirs.close()
    try:
        failed = str(ours.recv())
    except EOFError:
        process.join()
        failed = f"its process ended with exit code {process.exitcode}; it was killed, or the memory ran out"
    process.join()
    running.discard(process)
    ours.close()
    return failed


def _work(job: TrialJob, pipe: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8", buffering=1) as stream:
        try:
            job.work(Progress(console=Console(file=stream), disable=True))
            failed = ""
        except FedKT3DError as error:
            failed = str(error)
        except Exception as error:  # the others go on; its traceback is in the log
            traceback.print_exc(file=stream)
            failed = f"{type(error).__name__}: {error} ({job.log})"
    pipe.send(failed)


def _end_with_parent() -> None:
    """A trial that outlived its command would meet the repeated command in the same folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
