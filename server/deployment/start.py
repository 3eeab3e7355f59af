"""`server start`: keep the coordinator's two processes alive, the guarded SuperLink and the executor of ServerApps.

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
from server.deployment.home import ServerHome

SUPERLINK, EXECUTOR = "superlink", "executor"
TLS_WARNING = dt.timedelta(days=30)


def start(home: ServerHome, say: Callable[[str], None]) -> None:
    """Run the coordinator until SIGTERM or SIGINT; `say` gets a line when it is ready and when it stops.

    InputError when it runs already or a port is taken.
    """
    os.umask(0o077)
    with sole_instance(home.lock, "the coordinator"):
        require_free_port(home.host, home.port, "port")
        require_free_port(LOOPBACK, home.control_port, "control_port")
        home.state_file.unlink(missing_ok=True)
        left = certificates.expires(identity.read_input(home.tls_certificate)) - dt.datetime.now(dt.UTC)
        if left < TLS_WARNING:
            say(f"the TLS certificate ends in {left.days} days, and then no site connects; renew it: server tls")
        children = _children(home)
        watch = _Watch(home, children, say)
        supervise(children, watch.tick)
    say("coordinator: stopped")


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


class _Watch:
    """Writes the supervisor's state and says once that the coordinator is ready."""

    def __init__(self, home: ServerHome, children: list[Child], say: Callable[[str], None]) -> None:
        self._home = home
        self._children = children
        self._say = say
        self._ready = False
        self._state: dict[str, Any] = {}

    def tick(self) -> None:
        if not self._ready and is_ready(self._home):
            self._ready = True
            self._say(f"coordinator: ready for sites on {self._home.host}:{self._home.port} (TLS)")
        state: dict[str, Any] = {
            child.name: {"pid": child.pid, "restarts": max(child.starts - 1, 0), "last_exit": child.last_exit}
            for child in self._children
        }
        state["ready"] = self._ready
        if state != self._state:
            self._state = state
            write_state(self._home.state_file, {**state, "pid": os.getpid(), "since": time.time()})


def _children(home: ServerHome) -> list[Child]:
    superlink = module_command("server.deployment.superlink", str(home.folder))
    executor = module_command("server.deployment.executor", str(home.folder))
    # The executor stops first: a ServerApp that runs can still tell the SuperLink that it ends.
    return [
        Child(EXECUTOR, executor, home.environment("superexec"), home.log(EXECUTOR), home.folder),
        Child(SUPERLINK, superlink, home.environment("superlink"), home.log(SUPERLINK), home.folder),
    ]
