"""`client start`: keeps the site's two processes, SuperNode and executor, alive and at work.

Connections go outwards only: the SuperNode polls the coordinator over TLS with the site's node key, and its runtime API
listens on a fresh port of 127.0.0.1 for our executor alone. The executor stops first, so that it can still tell the
coordinator about an open task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.node.status import CONSOLE, EXECUTOR, INSTANCE, START, SUPERNODE, current, describe, hints
from client.node.watchdog import TaskTimes, Watchdog
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.instance import instance
from client.site.ledger_binding import is_bound
from client.site.policy import Policy
from privacy.dp.terms import NOISED, SUMMED
from privacy.flower.heartbeat import last_beat
from privacy.flower.processes import (
    LOOPBACK,
    Child,
    free_loopback_port,
    module_command,
    read_state,
    sole_instance,
    supervise,
    write_state,
)
from privacy.trust.passphrase import passphrase_environment, read_private_key
from privacy.trust.signed import private_key
from shared_model.core.errors import InputError, naming

HINTS_EVERY_S = 10.0


def start(home: ClientHome, say: Callable[[str], None], *, console: bool = False) -> None:
    """Run the site until SIGTERM or SIGINT; `say` gets the state line whenever it changes.

    ``console``: whether the site's web page runs too, on a free port of 127.0.0.1; taking part does not need it.

    InputError when the site's configuration or policy is wrong, when a privacy mode needs the identity key but it
    cannot be read, when that mode's ledger is missing or was changed, or when the site runs already.
    """
    site = _load_site(home)
    policy = Policy.load(home.policy)  # report its errors here, not when the first request comes
    if set(policy.modes) & set(SUMMED):
        with naming(home.identity_key):
            private_key(read_private_key(home.identity_key))
    require_node_key(home)
    if set(policy.modes) & set(NOISED):
        policy.ledger_in(home.folder).entries()
        is_bound(site.root, policy.ledger_in(home.folder))  # or else every request would be refused when it is paid for
    os.umask(0o077)
    with sole_instance(home.lock, "the site"):
        # The SuperNode's state stays: it tells what was left undone. An earlier start's process id must not stay:
        # `client leave` would end whatever process has that number now.
        for name in (EXECUTOR, START, CONSOLE):
            home.state(name).unlink(missing_ok=True)
        children = _children(home, site.threads, site.proxy)
        if console:
            page = module_command("client.console.serve", str(home.folder), str(free_loopback_port()))
            children.append(Child(CONSOLE, page, home.environment(), home.log(CONSOLE), home.folder))
        keeper = _Keeper(home, children, say, 3600.0 * policy.max_task_hours)
        try:
            supervise(children, keeper.tick)
        finally:
            keeper.tick(final=True)
    say(f"{site.site}: stopped")


def _load_site(home: ClientHome) -> SiteConfig:
    """Read site.yaml. The error is without case ids and data paths: a service's screen is a log."""
    try:
        return SiteConfig.load(home.site_config)
    except InputError:
        raise InputError(f"{home.site_config}: cannot be used; client status --home {home.folder} says why") from None


def require_node_key(home: ClientHome) -> None:
    """Raise InputError when the node key cannot be read: Flower's SuperNode would end at once, again and again."""
    try:
        load_ssh_private_key(home.node_key.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{home.node_key}: cannot be read ({type(error).__name__}); put it back from a backup that holds keys, or"
            " join anew: `client leave`, then `client init` with a new invitation"
        ) from error


class _Keeper:
    """After each look at the children: restarts a child that no longer works, writes the state file, says the line."""

    def __init__(
        self, home: ClientHome, children: list[Child], say: Callable[[str], None], longest_task_s: float
    ) -> None:
        self._since = time.time()
        self._next_hints = 0.0
        self._hints: list[str] = []
        self._times = TaskTimes(longest_task_s)
        self._last_task: Any = None
        self._home = home
        self._children = {child.name: child for child in children}
        self._say = say
        self._watchdog = Watchdog()
        self._line = ""
        self._processes: dict[str, Any] = {}
        self._restarts: list[str] = []

    def tick(self, *, final: bool = False) -> None:
        if not final:
            self._watch()
        processes: dict[str, Any] = {"since": self._since} | {
            child.name: {"pid": child.pid, "restarts": max(child.starts - 1, 0), "last_exit": child.last_exit}
            for child in self._children.values()
        }
        if processes != self._processes:
            self._processes = processes
            record = {**processes, "pid": os.getpid(), "watchdog": self._restarts[-10:]}
            write_state(self._home.state(START), record)
        if time.monotonic() >= self._next_hints:
            self._next_hints = time.monotonic() + HINTS_EVERY_S
            self._hints = hints(self._home, for_log=True)
        line = describe(current(self._home, {**processes, "hints": self._hints}))
        if line != self._line:
            self._line = line
            self._say(line)

    def _watch(self) -> None:
        supernode, executor = self._children[SUPERNODE], self._children[EXECUTOR]
        supernode_state, executor_state = (read_state(self._home.state(name)) for name in (SUPERNODE, EXECUTOR))
        self._note_task(executor_state)
        kind = str((executor_state.get("task") or {}).get("kind", ""))
        beat = last_beat(self._home.beat(EXECUTOR))
        hangs = self._watchdog.hangs(executor.pid, executor_state, self._times.limit_s(kind), beat)
        if hangs and kind:
            self._times.gave_up(kind)
        reason = self._watchdog.reason(supernode.pid, supernode_state, executor_state)
        for child, what, why in ((executor, "work", hangs), (supernode, "connection", reason)):
            if why:
                self._restarts.append(why)
                self._say(f"restarting the {what}: {why}")
                child.stop()  # the next look starts it again, without a pause

    def _note_task(self, executor: dict[str, Any]) -> None:
        """Note how long the executor's last task took, once."""
        last = executor.get("last")
        if last and last != self._last_task and last.get("ok"):
            self._times.took(str(last.get("kind", "")), float(last.get("wall_s", 0.0)))
        self._last_task = last


def _children(home: ClientHome, threads: int = 0, proxy: str = "") -> list[Child]:
    """Executor and SuperNode; `threads` CPU threads for the executor (0: the machine's choice), the SuperNode's proxy.

    The number is set before torch is imported, so that all of its libraries use it. Results depend on it: sums of
    floats are split among threads. Only the executor gets the passphrase of the identity key, if there is one.
    """
    address = f"{LOOPBACK}:{free_loopback_port()}"
    environment = home.environment()
    limit = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    through = {"HTTPS_PROXY": proxy, "https_proxy": proxy} if proxy else {}
    commands = {
        name: module_command(f"client.node.{name}", str(home.folder), address) for name in (EXECUTOR, SUPERNODE)
    }
    return [
        Child(
            EXECUTOR,
            commands[EXECUTOR],
            environment | limit | passphrase_environment() | {INSTANCE: instance(home.folder)},
            home.log(EXECUTOR),
            home.folder,
        ),
        Child(SUPERNODE, commands[SUPERNODE], environment | through, home.log(SUPERNODE), home.folder),
    ]
