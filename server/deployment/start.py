"""`server start`: keep the coordinator alive: the guarded SuperLink, the executor of ServerApps, the web page.

The executor runs the ServerApp of a submitted run as its own child. All of them end with this process.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from privacy.flower.heartbeat import last_beat
from privacy.flower.processes import (
    LOOPBACK,
    Child,
    is_running,
    module_command,
    read_state,
    require_free_port,
    sole_instance,
    supervise,
    write_state,
)
from privacy.trust import certificates, identity
from server.deployment import nodes
from server.deployment.control import Control
from server.deployment.health import HealthService
from server.deployment.home import ServerHome
from shared_model.core.errors import FedKT3DError, InputError

SUPERLINK, EXECUTOR, CONSOLE = "superlink", "executor", "console"
TLS_WARNING = dt.timedelta(days=30)
DOCUMENT_WARNING = dt.timedelta(days=180)  # each site needs an admission in between, which it gets every 90 days
LOOK_S = 10.0
SILENT_S = 120.0  # a SuperLink that stores large parts answers late


def start(home: ServerHome, say: Callable[[str], None], health: str | None = None, *, console: bool = True) -> None:
    """Run the coordinator until SIGTERM or SIGINT; `say` gets a line when it is ready and when it stops.

    ``health``: HOST:PORT on which gRPC's health service answers; None: nowhere. ``console``: whether the web page runs
    too; a federation does not need it, so a port that is taken there only costs the page. InputError when the
    coordinator runs already or a port of its own is taken.
    """
    os.umask(0o077)
    with sole_instance(home.lock, "the coordinator"):
        require_free_port(home.host, home.port, "port")
        require_free_port(LOOPBACK, home.control_port, "control_port")
        home.state_file.unlink(missing_ok=True)
        left = _require_certificate(home)
        if left < TLS_WARNING:
            say(
                f"the TLS certificate ends in {left.days} days, and then no site connects; renew it, at any time:"
                f" server tls --home {home.folder}"
            )
        _warn_of_document_key(home, say)
        home.write_connection()
        children = _children(home, console)
        with HealthService(health) as service:
            supervise(children, _Watch(home, children, say, service).tick)
    say("coordinator: stopped")


def _require_certificate(home: ServerHome) -> dt.timedelta:
    """Return how long the TLS certificate is still valid; InputError when it has ended or its key does not fit."""
    ends = certificates.expires(identity.read_input(home.tls_certificate))
    left = ends - dt.datetime.now(dt.UTC)
    if left <= dt.timedelta():
        raise InputError(
            f"{home.tls_certificate}: ended on {ends.date().isoformat()}, so no site could connect; make a new one:"
            f" server tls --home {home.folder}"
        )
    return left


def _warn_of_document_key(home: ServerHome, say: Callable[[str], None]) -> None:
    """Say when the key that signs documents ends soon. Sites need their next admission before that."""
    ends = certificates.expires(identity.read_input(home.roster_certificate))
    if ends - dt.datetime.now(dt.UTC) < DOCUMENT_WARNING:
        say(
            f"the key that signs plans and admissions ends on {ends.date().isoformat()}; make the next one, then renew"
            f" each site: server rotate --home {home.folder}"
        )


def is_ready(home: ServerHome) -> bool:
    """Return whether the SuperLink answers on its control channel."""
    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"https://{home.control_address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def processes(home: ServerHome) -> dict[str, Any]:
    """Return what `server start` says about itself; empty when it does not run."""
    return read_state(home.state_file) if is_running(home.lock) else {}


def ill(home: ServerHome) -> str:
    """Return what is wrong with the coordinator, for a health check; empty where sites can be served."""
    found = processes(home)
    if not found:
        return "server start does not run"
    if not found.get("ready"):
        return "the SuperLink is starting"
    if not is_ready(home):
        return "the SuperLink does not answer"
    beat = last_beat(home.beat(EXECUTOR))
    silent_s = float("inf") if beat is None else time.time() - beat / 1e9
    return "no sign of life from the executor" if silent_s > SILENT_S else ""


class _Watch:
    """Writes the supervisor's state and says once that the coordinator is ready."""

    def __init__(
        self, home: ServerHome, children: list[Child], say: Callable[[str], None], health: HealthService
    ) -> None:
        self._home, self._health = home, health
        self._children = children
        self._say = say
        self._ready = False
        self._next_look = 0.0
        self._signs: dict[str, tuple[Any, float]] = {}
        self._state: dict[str, Any] = {}

    def tick(self) -> None:
        if not self._ready and is_ready(self._home):
            self._ready = True
            self._restore_sites()
            self._health.say(serving=True)
            self._say(f"coordinator: ready for sites on {self._home.host}:{self._home.port} (TLS)")
        elif self._ready:
            self._watch()
        state: dict[str, Any] = {
            child.name: {"pid": child.pid, "restarts": max(child.starts - 1, 0), "last_exit": child.last_exit}
            for child in self._children
        }
        state["ready"] = self._ready
        if state != self._state:
            self._state = state
            write_state(self._home.state_file, {**state, "pid": os.getpid(), "since": time.time()})

    def _restore_sites(self) -> None:
        """Have a new or restored SuperLink know the admitted sites."""
        if not read_state(self._home.sites_file):
            return
        try:
            with sole_instance(self._home.folder / "state" / "members.lock", "an admission"):
                restored = nodes.restore(self._home, Control(self._home))
        except FedKT3DError as error:
            self._say(f"the admitted sites could not be compared with the SuperLink's ({error}); start again")
            return
        if restored:
            self._say(f"registered again at the SuperLink: {', '.join(restored)}")

    def _watch(self) -> None:
        """Start anew what gives no sign of life; asks the SuperLink at times only, since that costs a request."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        signs = {SUPERLINK: now if is_ready(self._home) else None, EXECUTOR: last_beat(self._home.beat(EXECUTOR))}
        self._health.say(serving=signs[SUPERLINK] is not None)
        for child in self._children:
            if child.name not in signs:
                continue
            seen = (child.pid, signs[child.name])
            if signs[child.name] is None:
                seen = (child.pid, self._signs.get(child.name, ((None, None), now))[0][1])
            if child.pid is None or seen != self._signs.get(child.name, (None, now))[0]:
                self._signs[child.name] = (seen, now)
            elif now - self._signs[child.name][1] > SILENT_S:
                self._say(f"restarting the {child.name}: no sign of life")
                child.stop()


def _children(home: ServerHome, console: bool) -> list[Child]:
    superlink = module_command("server.deployment.superlink", str(home.folder))
    executor = module_command("server.deployment.executor", str(home.folder))
    # The executor stops first: a ServerApp that runs can still tell the SuperLink that it ends.
    children = [
        Child(EXECUTOR, executor, home.environment("superexec"), home.log(EXECUTOR), home.folder),
        Child(SUPERLINK, superlink, home.environment("superlink"), home.log(SUPERLINK), home.folder),
    ]
    if console:
        page = module_command("server.console.serve", str(home.folder), LOOPBACK, str(home.console_port))
        children.append(Child(CONSOLE, page, home.environment("control"), home.log(CONSOLE), home.folder))
    return children
