"""The site's executor: takes tasks from the local SuperNode and runs the ClientApp that is installed at the hospital.

Stock Flower unpacks the coordinator's bundle at the site and imports it. This process replaces it and never does so:

- it asks the SuperNode (loopback, with the site's secret) for CLIENT_APP tasks and for no other kind;
- the bundle that comes with a task is dropped unread; `client.app:app` of this installation does the task and stays
  loaded with its model (torch is imported when it is first needed);
- the site configuration in a task's context is the site's own, whatever the coordinator's run configuration says;
- an exception's text may hold a patient's name, so neither the coordinator nor the log gets it: the coordinator gets a
  fixed sentence, and the log gets the exception's type and the lines of code it came through.

Run as `python -m client.node.executor HOME ADDRESS` by `client start`.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from flwr.app import ConfigRecord, Context, Message

from client.app import HOME_KEY, INSTANCE_KEY, NODE_CONFIG_KEY
from client.app import app as installed_app
from client.node.asked import note_asked
from client.node.site_log import log_failure, log_to_stdout
from client.node.status import INSTANCE
from client.site.home import ClientHome
from privacy.flower.heartbeat import Heartbeat
from privacy.flower.internals.client_task import failure, lease, pull_message, push_end, push_reply
from privacy.flower.internals.runtime import PromptRuntime, executor_proof, runtime_client, take_client_task, task_proof
from privacy.flower.processes import end_with_parent, read_state, write_state
from privacy.wire.messages import SITE_STOPS

APP_FAILED = "the site's app failed; the reason is in the site's own log"
COMPONENT = "flwr-clientapp"  # what Flower's version check takes this process for
LOOK_S = 0.02  # between two looks at the SuperNode's note of when it took a message
ASK_S = 5.0  # longest time between two requests for a task, whatever the SuperNode noted
RETRY_S = 1.0

_log = logging.getLogger("client.node.executor")


class _StopSite(BaseException):
    """SIGTERM: leave, and tell the coordinator if a task is open. Not an Exception, so that no app swallows it."""


class _Abandon(BaseException):
    """SIGINT from Flower's own threads: the task is no longer ours (its run ended, its token expired)."""


class SiteExecutor:
    """Takes one task after another; `run` returns when the process is told to stop."""

    def __init__(self, home: ClientHome, address: str) -> None:
        self._home = home
        self._address = address
        self._secret = home.secret.read_bytes()
        self._working = False
        self._refused = ""  # why the task at work is refused
        self._taken: object = None
        self._heart = Heartbeat(home.beat("executor"))
        self._state: dict[str, Any] = {
            "state": "idle",
            "tasks_done": 0,
            "tasks_failed": 0,
            "last": None,
            "last_refusal": None,
        }

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_abandon)
        self._report()
        # At work a thread beats: that shows a stopped process. An idle one beats in its loop, which must go round.
        self._heart.start(lambda: self._working)
        try:
            with runtime_client(self._address, executor_proof(self._secret), COMPONENT, None) as poll:
                while True:
                    token = self._next_task(poll)
                    if token is not None:
                        self._work(token)
        except _StopSite:
            self._report(state="stopped")

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        raise _StopSite

    def _on_abandon(self, _number: int, _frame: FrameType | None) -> None:
        if self._working:
            raise _Abandon

    def _next_task(self, poll: PromptRuntime) -> str | None:
        """Ask once for a task; return its token, or None after a pause."""
        self._heart.beat()
        try:
            token = take_client_task(poll)
        except httpx.HTTPError as error:  # SuperNode starts, restarts or is busy
            _log.info("SuperNode not ready (%s)", type(error).__name__)
            time.sleep(RETRY_S)
            return None
        if token is None:
            self._await_message()
        return token

    def _await_message(self) -> None:
        """Return once the SuperNode has taken another message in full, or ASK_S later."""
        end = time.monotonic() + ASK_S
        while time.monotonic() < end:
            self._heart.beat()
            taken = read_state(self._home.state("supernode")).get("taken")
            if taken != self._taken:
                self._taken = taken
                return
            time.sleep(LOOK_S)

    def _work(self, token: str) -> None:
        """Do the task that `token` stands for and report its end to the SuperNode, whatever happens."""
        started = time.monotonic()
        self._report(state="working")
        self._working, self._refused = True, ""
        try:
            with runtime_client(self._address, task_proof(token), COMPONENT, None, insists=True) as client:
                succeeded = self._do_task(client)
        except _Abandon:
            succeeded = False
            _log.warning("task abandoned: its run ended or the SuperNode took it back")
        except Exception as error:
            succeeded = False
            log_failure("task lost", error)
        finally:
            self._working = False
        self._state["tasks_done" if succeeded else "tasks_failed"] += 1
        last = {**(self._state.get("task") or {}), "ok": succeeded, "wall_s": round(time.monotonic() - started, 2)}
        self._report(state="idle", task=None, last=last)
        note_asked(self._home.state("asked"), {**last, "refused": self._refused, "at": time.time()})

    def _do_task(self, client: PromptRuntime) -> bool:
        """Pull the message, run the app, push its reply; True when the app did its part."""
        context: Context | None = None
        reply: Message | None = None
        stop = False
        with lease(client):
            try:
                message, context = pull_message(client)
                self._report(task=_describe(message.metadata.message_type, message.metadata.group_id))
                try:
                    reply = self._call_app(message, context)
                except _StopSite:
                    stop = True
                    reply = failure(message, SITE_STOPS)
                push_reply(client, reply, context)
            finally:
                succeeded = reply is not None and not reply.has_error()
                push_end(client, context, succeeded=succeeded)
        if stop:
            raise _StopSite
        return succeeded

    def _call_app(self, message: Message, context: Context) -> Message:
        """Return the installed app's reply, or a fixed error if anything went wrong."""
        context.node_config = {
            NODE_CONFIG_KEY: str(self._home.site_config),
            HOME_KEY: str(self._home.folder),
            INSTANCE_KEY: os.environ.get(INSTANCE, ""),
        }
        context.run_config = {}  # what the site needs comes in the message, where every field is validated
        try:
            reply = installed_app(message, context)
            self._note_refusal(reply)
            return reply
        except Exception as error:
            log_failure("the app failed", error)
            return failure(message, APP_FAILED)

    def _note_refusal(self, reply: Message) -> None:
        head = reply.content.config_records.get("head", ConfigRecord())
        if "refusal" in head:
            refusal = {"code": head["refusal"], "text": head["text"], "kind": head["kind"], "round": head["round"]}
            self._report(last_refusal={**refusal, "at": time.time()})
            self._refused = str(head["text"] or head["refusal"])

    def _report(self, **changes: Any) -> None:
        self._state |= {**changes, "since": time.time()}
        write_state(self._home.state("executor"), self._state)


def _describe(kind: str, group: str) -> dict[str, str]:
    """Return a message's kind and round for the site's screen. The coordinator wrote them: keep harmless characters."""
    parts = {"kind": kind, "round": group}
    return {name: re.sub(r"[^A-Za-z0-9._-]", "", text)[:32] for name, text in parts.items()}


def main() -> None:
    """Run the executor of the site's folder in the first argument, at the SuperNode's address in the second."""
    os.umask(0o077)
    log_to_stdout()
    end_with_parent()
    SiteExecutor(ClientHome.load(Path(sys.argv[1])), sys.argv[2]).run()


if __name__ == "__main__":
    main()
