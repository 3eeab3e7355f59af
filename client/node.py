"""`client start`: keeps the site's two processes alive, SuperNode and executor, and says in one line how they fare.

Connections go outwards only: the SuperNode polls the coordinator over TLS with the site's node key, and its runtime API
listens on a fresh port of 127.0.0.1 for our executor alone. The executor stops first, so that it can still tell the
coordinator about an open task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from client.home import ClientHome
from client.site import SiteConfig
from privacy.processes import (
    LOOPBACK,
    Child,
    free_loopback_port,
    is_running,
    module_command,
    read_state,
    sole_instance,
    supervise,
    write_state,
)

EXECUTOR, SUPERNODE = "executor", "supernode"


def start(home: ClientHome, say: Callable[[str], None]) -> None:
    """Run the site until SIGTERM or SIGINT; `say` gets the state line whenever it changes.

    InputError when the site configuration is wrong or the site runs already.
    """
    site = SiteConfig.load(home.site_config)
    os.umask(0o077)
    with sole_instance(home.lock, "the site"):
        for name in (EXECUTOR, SUPERNODE):
            home.state(name).unlink(missing_ok=True)
        children = _children(home, site.threads)
        screen = _Screen(home, site.site, children, say)
        try:
            supervise(children, screen.tick)
        finally:
            screen.tick()
    say(f"{site.site}: stopped")


def status(home: ClientHome) -> dict[str, Any]:
    """Return what the site's processes last said, as `client status --json` prints it."""
    running = is_running(home.lock)
    supernode = read_state(home.state(SUPERNODE)) if running else {}
    return {
        "site": SiteConfig.load(home.site_config).site,
        "server": home.server,
        "running": running,
        "connection": supernode.get("connection", "none"),
        "node_id": supernode.get("node_id"),
        "executor": read_state(home.state(EXECUTOR)) if running else {},
        "processes": read_state(home.state("start")) if running else {},
    }


def describe(report: dict[str, Any]) -> str:
    """Return the one-line state of a site from `status`."""
    if not report["running"]:
        return f"{report['site']}: not running"
    executor = report["executor"]
    task = executor.get("task") or {}
    doing = executor.get("state", "starting")
    if task:
        doing = " ".join(
            filter(None, [f"working on {task.get('kind', '')}", task.get("round") and f"({task['round']})"])
        )
    counts = f"{executor.get('tasks_done', 0)} tasks done, {executor.get('tasks_failed', 0)} failed"
    return f"{report['site']}: {_connection(report)} | {doing} | {counts}"


def _connection(report: dict[str, Any]) -> str:
    restarts = report["processes"].get(SUPERNODE, {}).get("restarts", 0)
    words = {
        "connected": f"connected to {report['server']}",
        "retrying": f"no connection to {report['server']}, trying again",
    }
    text = words.get(report["connection"], f"connecting to {report['server']}")
    if report["connection"] != "connected" and restarts > 0:
        text += " (refused: is the key registered, the CA right, the clock set? see logs/supernode.log)"
    return text


class _Screen:
    """Writes the supervisor's state file and says the state line when either changes."""

    def __init__(self, home: ClientHome, site: str, children: list[Child], say: Callable[[str], None]) -> None:
        self._home = home
        self._site = site
        self._children = children
        self._say = say
        self._line = ""
        self._processes: dict[str, Any] = {}

    def tick(self) -> None:
        processes = {
            child.name: {"pid": child.pid, "restarts": max(child.starts - 1, 0), "last_exit": child.last_exit}
            for child in self._children
        }
        if processes != self._processes:
            self._processes = processes
            write_state(self._home.state("start"), {**processes, "pid": os.getpid(), "since": time.time()})
        report = {
            "site": self._site,
            "server": self._home.server,
            "running": True,
            "connection": read_state(self._home.state(SUPERNODE)).get("connection", "none"),
            "executor": read_state(self._home.state(EXECUTOR)),
            "processes": processes,
        }
        line = describe(report)
        if line != self._line:
            self._line = line
            self._say(line)


def _children(home: ClientHome, threads: int = 0) -> list[Child]:
    """Executor and SuperNode; `threads` CPU threads for the executor (0: the machine's choice).

    The number is set before torch is imported, where it counts for all of its libraries. Results depend on it: sums of
    floats are split among threads.
    """
    address = f"{LOOPBACK}:{free_loopback_port()}"
    supernode = module_command(
        "client.supernode",
        str(home.state(SUPERNODE)),
        *("--superlink", home.server, "--root-certificates", str(home.ca_certificate)),
        *("--auth-supernode-private-key", str(home.node_key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.secret)),
        *("--host", LOOPBACK, "--port", address.rpartition(":")[2]),
    )
    executor = module_command("client.executor", str(home.folder), address)
    environment = home.environment()
    limit = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    return [
        Child(EXECUTOR, executor, environment | limit, home.log(EXECUTOR), home.folder),
        Child(SUPERNODE, supernode, environment, home.log(SUPERNODE), home.folder),
    ]
