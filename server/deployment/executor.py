"""The coordinator's executor: takes ServerApp tasks from the SuperLink and runs each in a process of its own.

It takes the place of Flower's SuperExec, with three differences that a long run needs:

- It holds the task's lease itself as soon as it has the task. Stock Flower leaves that to the new process, which then
  has 30 s to import everything. A machine under load loses the task, and a heartbeat that gets one HTTP 500 stops for
  good.
- It reports a killed ServerApp at once, with the signal, not after a minute of silence.
- After a restart of the coordinator it reports the tasks that were open before. So no dead run is called "running".

Run as `python -m server.deployment.executor HOME` by `server start`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx

from privacy.flower.heartbeat import Heartbeat, last_beat
from privacy.flower.internals.runtime import (
    PromptRuntime,
    executor_proof,
    renew_lease,
    report_failure,
    runtime_client,
    take_server_task,
    task_proof,
)
from privacy.flower.processes import end_with_parent, module_command, rotate
from server.deployment.home import ServerHome
from server.sites.patience import call_again, may_pass
from shared_model.core.files import PRIVATE, create_file

LOOK_S = 0.25  # between two looks at the running tasks
ASK_S, ASK_WHILE_WORKING_S = 0.25, 2.0  # between two questions for a task: each holds up all others at the SuperLink
RETRY_S = 1.0
HEARTBEAT_S = 8.0  # the lease is 30 s at first, then 60 s
STOP_S = 8.0
SILENT_S = 120.0  # a server app beats from its first line on; its imports may take their time
RESTARTED = "the coordinator was stopped or restarted"

_log = logging.getLogger("server.deployment.executor")


class _StopCoordinator(BaseException):
    """SIGTERM: end the ServerApps and exit."""


@dataclass
class _RunningApp:
    """One ServerApp that runs. ``token`` opens its part of the Runtime API and stands in ``note`` (0600) meanwhile."""

    token: str
    note: Path
    process: subprocess.Popen[bytes]
    next_heartbeat: float = 0.0
    stopping_since: float | None = None
    beat: int | None = None
    beat_at: float = field(default_factory=time.monotonic)


class CoordinatorExecutor:
    """Takes new tasks and watches running ones, in one thread. `run` returns when the process is told to stop."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._notes = home.folder / "state" / "tasks"
        self._tasks: list[_RunningApp] = []
        self._next_question = 0.0
        self._heart = Heartbeat(home.beat("executor"))

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_stop)
        self._notes.mkdir(mode=0o700, exist_ok=True)
        proof = executor_proof(self._home.secret("superexec").read_bytes())
        try:
            with runtime_client(self._home.control_address, proof, "SuperExec", self._home.ca_certificate) as poll:
                while True:
                    self._heart.beat()
                    self._report_left_over()
                    if time.monotonic() >= self._next_question:
                        self._next_question = time.monotonic() + self._take(poll)
                    self._tasks = [task for task in self._tasks if self._look_after(task)]
                    time.sleep(LOOK_S)
        except _StopCoordinator:
            self._stop_all()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _StopCoordinator

    def _take(self, poll: PromptRuntime) -> float:
        """Ask once for a task and start it. Return how long to wait before the next question."""
        try:
            token = take_server_task(poll)
        except httpx.HTTPError as error:
            _log.info("SuperLink not ready (%s)", type(error).__name__)
            return RETRY_S
        if token is not None:
            note = self._notes / uuid.uuid4().hex
            create_file(note, token.encode(), PRIVATE)
            task = _RunningApp(token=token, note=note, process=self._start(token, note.name))
            self._tasks.append(task)
        return ASK_WHILE_WORKING_S if self._tasks else ASK_S

    def _start(self, token: str, name: str) -> subprocess.Popen[bytes]:
        """Start server/deployment/serverapp.py in our own process group, so that it never outlives us; the token goes
        by pipe."""
        path = self._home.log("serverapp")
        rotate(path)
        with path.open("ab") as log:
            process = subprocess.Popen(
                module_command("server.deployment.serverapp", str(self._home.folder), name),
                cwd=self._home.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(token.encode())
        return process

    def _look_after(self, task: _RunningApp) -> bool:
        """Renew a task's lease when it is time; False when the task is over."""
        code = task.process.poll()
        if code is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            # The SuperLink takes this only where the ServerApp did not report its own end.
            self._home.beat(task.note.name).unlink(missing_ok=True)
            self._report_end(task.token, task.note, f"the server app's process ended ({how})")
            return False
        now = time.monotonic()
        beat = last_beat(self._home.beat(task.note.name))
        if beat != task.beat:
            task.beat, task.beat_at = beat, now
        elif now - task.beat_at > SILENT_S:
            _log.warning("a server app gives no sign of life; ending it")
            task.process.kill()
            return True
        if task.stopping_since is not None and now - task.stopping_since > STOP_S:
            task.process.kill()
        elif task.stopping_since is None and now >= task.next_heartbeat:
            task.next_heartbeat = now + HEARTBEAT_S
            if not self._renew_lease(task.token):
                _log.warning("a run was stopped or its lease is lost; ending its server app")
                task.process.terminate()
                task.stopping_since = now
        return True

    def _renew_lease(self, token: str) -> bool:
        """Renew one lease; False when the task is no longer ours. A fault that may pass does not lose it."""
        try:
            with self._task_client(token) as client:
                return renew_lease(client)
        except httpx.HTTPError as error:
            return may_pass(error)

    def _task_client(self, token: str) -> AbstractContextManager[PromptRuntime]:
        return runtime_client(self._home.control_address, task_proof(token), "SuperExec", self._home.ca_certificate)

    def _report_end(self, token: str, note: Path, details: str, within_s: float = 30.0) -> None:
        """Tell the SuperLink that a task failed, unless it is over there already. Then forget the task."""
        try:
            with self._task_client(token) as client:
                call_again(lambda: report_failure(client, details), "reporting a task's end", within_s)
            _log.warning("%s", details)
        except httpx.HTTPStatusError as error:
            if may_pass(error):
                return  # the note stays: the next start tries again
        except httpx.HTTPError:
            return
        note.unlink(missing_ok=True)

    def _report_left_over(self) -> None:
        """Report the tasks that an earlier executor left open. If a report failed, try it again."""
        ours = {task.note for task in self._tasks}
        for note in sorted(set(self._notes.iterdir()) - ours):
            self._report_end(note.read_text(encoding="ascii"), note, RESTARTED, within_s=0.0)

    def _stop_all(self) -> None:
        for task in self._tasks:
            task.process.terminate()
        end = time.monotonic() + STOP_S
        for task in self._tasks:
            with suppress(subprocess.TimeoutExpired):
                task.process.wait(max(0.0, end - time.monotonic()))
            task.process.kill()
            self._report_end(task.token, task.note, RESTARTED, within_s=0.0)


def main() -> None:
    """Run the executor of the coordinator's folder in the first argument."""
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per poll otherwise
    end_with_parent()
    CoordinatorExecutor(ServerHome.load(Path(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
