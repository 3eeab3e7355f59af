"""Watches each request of a SuperNode to the coordinator: is it connected, does it progress, did a message get lost.

Flower retries some failures without end and gives up on others silently: the process lives on and its /health answers
200, but the site no longer works. So here

- an HTTP 500 counts as passing, like the 503 that Flower retries, and so does a connection that ends in the TLS
  handshake, unless the certificate itself is wrong;
- a failure after which the coordinator may wait for this site in vain (a message or an answer was lost on the way)
  ends the process: it tells the coordinator before it ends, and `client start` restarts it at once;
- what happens is noted in a file, which `client start` watches (client/node/watchdog.py).
"""

from __future__ import annotations

import math
import os
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from privacy.flower.internals.fleet import (
    ACTIVATE,
    CONFIRM,
    DEACTIVATE,
    HEARTBEAT,
    PULL,
    PULL_OBJECT,
    ProtobufCall,
    ProtobufRequestContext,
    activated_node,
    call_of,
)
from privacy.flower.processes import read_state, write_state

NOTE_EVERY_S = 2.0
QUICK_S = 1.0  # only an answer that comes this soon shows the coordinator's present time
LOST = 3  # exit status
# Raised before anything was sent: the coordinator cannot have handed out a message.
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class LostError(SystemExit):
    """Ends the SuperNode: the coordinator may wait for an answer that will not come. Flower swallows an Exception."""

    def __init__(self) -> None:
        super().__init__(LOST)


class FleetWatch:
    """Interceptor of Flower's Fleet client; keeps the file ``state`` up to date.

    ``connection``: connecting, connected, retrying or refused. ``holding``: a message was taken and not answered yet.
    ``taken``: how many messages this process has taken in full; the executor asks for a task when it changes.
    ``why``: what a person can do something about, of a connection that fails.
    ``busy``: a request of the message loop is under way. ``alive``: time of the last request, whatever its outcome.
    ``pid``: the process that wrote it.
    ``released``: the coordinator knows that this node left, not that it is back: it does not wait for this node.
    """

    def __init__(self, state: Path) -> None:
        self._path = state
        self._lock = threading.Lock()  # heartbeats come from a thread of their own
        before = read_state(state)
        self.node_id: int | None = before.get("node_id")
        self.released = bool(before.get("released", True))
        self._noted_at = 0.0
        self._progress_at = -math.inf
        self._known = (self.node_id, self.released)
        self._state: dict[str, Any] = {
            "connection": "connecting",
            "pid": os.getpid(),
            "since": time.time(),
            "holding": False,
            "taken": 0,
            "busy": False,
            "clock_offset_s": None,
            "why": "",
        }
        self._note()

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Make one request and judge its outcome (internals/fleet.py: ProtobufClientInterceptor)."""
        call = call_of(context)
        loop = call != HEARTBEAT
        if call == ACTIVATE and self.node_id is not None:
            self.released = False  # from here on the coordinator may wait for this node, whatever the answer
        if loop:
            self._note(busy=True, **({"holding": False} if call == PULL else {}))
        started = time.time()
        try:
            response = call_next(context)
        except httpx.TransportError as error:
            self._note(connection="retrying", why=_why(error), **({"busy": False} if loop else {}))
            if call == PULL and not isinstance(error, _NOTHING_SENT):
                raise LostError from None
            raise _retryable(error) from None
        if loop and call != PULL:
            self._progress_at = time.monotonic()
        self._note_answer(call, response, started)
        if call == PULL and response.status_code >= 500:
            raise LostError
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            response.status_code = int(httpx.codes.SERVICE_UNAVAILABLE)
        # Flower itself handles two refusals: 401 ends the SuperNode, and 403 drops the message of a run that is over.
        # It only logs any other refusal and forgets the message. If the run ended while its message was on the way,
        # Flower forgets that it made a task for it: the executor would take that task and wait for the message's rest.
        final = 400 <= response.status_code < 500 and response.status_code not in (401, 403)
        half_taken = response.status_code == 403 and call in (PULL_OBJECT, CONFIRM)
        if half_taken or (final and call not in (HEARTBEAT, ACTIVATE, DEACTIVATE)):
            raise LostError
        return response

    def idle_s(self) -> float:
        """Seconds since the message loop last did more than ask for a message; infinite before the first."""
        return time.monotonic() - self._progress_at

    def _note_answer(self, call: str, response: httpx.Response, started: float) -> None:
        code = response.status_code
        changes: dict[str, Any] = {
            "connection": "refused" if code == 401 else "retrying" if code >= 500 else "connected"
        }
        changes["why"] = ""
        if call != HEARTBEAT:
            changes["busy"] = False
        if call == ACTIVATE and code == 200:
            self.node_id, self.released = activated_node(response), False
        elif call == ACTIVATE and 400 <= code < 500:
            changes["connection"] = "refused"
        elif call == DEACTIVATE and code < 500 and code != 401:
            self.released = True
        elif call == CONFIRM and code == 200:
            changes |= {"holding": True, "taken": self._state["taken"] + 1}
        offset = _clock_offset_s(response, started, time.time())
        self._note(**changes, **({} if offset is None else {"clock_offset_s": offset}))

    def _note(self, **changes: Any) -> None:
        with self._lock:
            now = time.time()
            if changes.get("connection", self._state["connection"]) != self._state["connection"]:
                changes["since"] = now
            known = (self.node_id, self.released)
            changed = any(self._state.get(key) != value for key, value in changes.items() if key != "clock_offset_s")
            self._state |= changes
            self._state |= {"node_id": self.node_id, "released": self.released, "alive": now}
            if changed or known != self._known or now - self._noted_at > NOTE_EVERY_S:
                self._known, self._noted_at = known, now
                write_state(self._path, self._state)


def _retryable(error: httpx.TransportError) -> httpx.TransportError:
    """Return the error in a form that Flower retries. Flower takes any text with "ssl" for a wrong certificate, even
    that of a cut connection, and gives up on a proxy's first no."""
    certificate_is_wrong = "certificate" in str(error).lower()
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)) and not certificate_is_wrong:
        return httpx.ConnectError("no connection")
    return error


def _why(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ProxyError):
        return f"the proxy answers {str(error)[:60]!r}"
    return "another certificate than the consortium's; `client check` says whose" if "certificate" in str(error) else ""


def _clock_offset_s(response: httpx.Response, started: float, ended: float) -> float | None:
    """Return by how many seconds this clock is ahead of the coordinator's, by the Date header; None if unknown."""
    if ended - started > QUICK_S:
        return None
    try:
        there = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None
    return round((started + ended) / 2 - (there + 0.5), 1)  # the header drops the fraction of a second
