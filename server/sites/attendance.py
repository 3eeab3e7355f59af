"""Who takes part: each connected node is asked once for its site's name and number of patients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict
from flwr.serverapp import Grid

from privacy.flower.processes import read_state
from privacy.secagg.context import Cohort
from privacy.wire.heads import OLDEST_SCHEMA, SCHEMA
from server.record.history import Drop
from server.record.public_log import RunLog
from server.sites.exchange import Answer, Exchange, Pause, connected_nodes

# Refusals that stay the same until somebody changes something at the site.
FINAL = ("schema", "wrong_model", "bad_task", "site_config", "no_patients", "data", "policy")
# A site that had one of these may be back in a moment, or may only look as if it were there.
PASSING = ("timeout", "disconnected", "stopped", "error")
INSTANCE_KEY = "policy: instance:"
ASK_AGAIN_S = 600.0
GRACE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ConnectedSite:
    """A site that described itself."""

    node: int
    name: str
    patients: int


class Register:
    """The name under which each node was admitted, from ``sites.json`` in the coordinator's folder, read on each call.

    Without a file, as in a simulation, every node may use any name.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def allows(self, node: int, name: str) -> bool:
        """Return whether the node may use this name."""
        if self._path is None:
            return True
        known = read_state(self._path).get(name)
        return isinstance(known, dict) and known.get("node_id") == str(node)

    def name(self, node: int) -> str:
        """Return the name under which ``node`` was admitted; empty where nobody knows."""
        known = {} if self._path is None else read_state(self._path)
        named = (name for name, entry in known.items() if isinstance(entry, dict) and entry.get("node_id") == str(node))
        return next(named, "")


ANYONE = Register(None)


@dataclass(frozen=True, kw_only=True)
class Members:
    """Who may take part in a run.

    ``cohort``: for secure aggregation, the sites of the federation plan or roster with their identity keys, or None;
    ``plan``: SHA-256 of the signed plan that the sites have pinned, empty without one. ``log``: of the rounds.
    """

    register: Register = ANYONE
    cohort: Cohort | None = None
    plan: bytes = b""
    log: RunLog | None = None


class Attendance:
    """Asks every node that connects to describe itself; sites may join, leave and come back between rounds.

    A node that was admitted under another name is dropped, so no site can speak for another. If two nodes answer with
    the same site name, the node with the smaller id keeps it and the other is dropped as a duplicate.
    """

    def __init__(
        self, grid: Grid, describe: RecordDict, *, run_id: str, answer_within_s: float, register: Register
    ) -> None:
        self._grid = grid
        self._admitted = register
        self._describe = describe
        self._answer_within_s = answer_within_s
        self._exchange = Exchange(grid, kind="describe", round_number=0, run_id=run_id)
        self._asked: set[int] = set()
        self._sites: dict[int, ConnectedSite] = {}
        self._aside: dict[int, tuple[Drop, float]] = {}
        self._older: dict[int, int] = {}
        self.drops: dict[int, Drop] = {}

    def gather(
        self,
        *,
        min_sites: int,
        wait_s: float,
        names: frozenset[str] = frozenset(),
        steady_s: float = 0.0,
        on_wait: Callable[[int], None] = lambda _: None,
    ) -> Iterator[ConnectedSite | Drop]:
        """Yield new sites and drops. It ends when ``min_sites`` and the sites ``names`` are there, or time is over.

        The same sites must have been there for ``steady_s``: a site that comes and goes costs the others. A silent node
        is waited for no longer than GRACE_S once enough sites are there. ``on_wait`` gets the number of usable sites
        at each look. With ``wait_s`` 0 this only handles what has arrived. Read the result with ``present``.
        """
        end = time.monotonic() + wait_s
        steady: tuple[list[ConnectedSite], float] = ([], time.monotonic())
        pause = Pause()
        # A failure may be fixed by now, and a name may have become free: ask once more.
        self._asked -= set(self.drops) - self._exchange.waiting_for
        while True:
            nodes = connected_nodes(self._grid)
            for gone in set(self._sites) - nodes:
                self.forget(gone)  # who comes back may be another start, or another copy, of that site
            new = sorted(nodes - self._asked)
            self._asked.update(new)
            unsent = self._exchange.send(self._describe, {n: f"node-{n}" for n in new}, self._answer_within_s)
            arrived = sorted([*unsent, *self._exchange.poll()], key=lambda answer: answer.node)
            news = [self._register(answer, nodes) for answer in [*arrived, *self._exchange.expire()]]
            yield from filter(None, news)
            silent, usable, now = self._exchange.waiting_for & nodes, self._usable(nodes), time.monotonic()
            if usable != steady[0]:
                steady = (usable, now)
            held_s = now - steady[1]
            enough = len(usable) >= min_sites and names <= {site.name for site in usable} and held_s >= steady_s
            if now >= end or (enough and (not silent or held_s >= GRACE_S)):
                return
            on_wait(len(usable))
            pause.after(progress=bool(arrived))

    def forget(self, node: int) -> None:
        """Have a node describe itself again before it counts as present."""
        self._sites.pop(node, None)
        self._asked.discard(node)
        self._aside.pop(node, None)

    def note(self, drops: Iterable[Drop]) -> None:
        """Take note of what a round's attempt dropped.

        A site that refused is set aside until it has left and come back, or ASK_AGAIN_S later: its answer will be the
        same. One that failed in another way must describe itself again, so that it counts once it answers.
        """
        nodes = {site.name: site.node for site in self._sites.values()}
        for drop in drops:
            node = nodes.get(drop.site)
            if node is None:
                continue
            if drop.reason == "refused" and drop.detail.partition(":")[0] in FINAL and INSTANCE_KEY not in drop.detail:
                self._aside[node] = (drop, time.monotonic())
            elif drop.reason in PASSING or INSTANCE_KEY in drop.detail:
                self.forget(node)

    def present(self) -> list[ConnectedSite]:
        """Return the sites that can be asked now, in order of names: connected, and not set aside."""
        nodes = connected_nodes(self._grid)
        for node, (_, since) in list(self._aside.items()):
            if time.monotonic() - since > ASK_AGAIN_S:
                self.forget(node)
        return self._usable(nodes)

    def waiting_for(self) -> str:
        """Return in words whom the run waits for: sites set aside, and nodes that do not answer."""
        aside = [drop.line() for drop, _ in self._aside.values()]
        silent = len(self._exchange.waiting_for)
        return "; ".join([*aside, *([f"{silent} connected without an answer"] if silent else [])])

    def _usable(self, nodes: set[int]) -> list[ConnectedSite]:
        return self._name_sites(nodes - set(self._aside))

    def _name_sites(self, nodes: set[int]) -> list[ConnectedSite]:
        return sorted((s for s in self._sites.values() if s.node in nodes), key=lambda site: site.name)

    def _register(self, answer: Answer, nodes: set[int]) -> ConnectedSite | Drop | None:
        drop = answer.drop
        older = self._older.get(answer.node, 0)
        if drop is not None and drop.detail == "schema" and older < SCHEMA - OLDEST_SCHEMA:
            self._older[answer.node] = older + 1  # of an earlier version: the next request is in an earlier schema
            self._asked.discard(answer.node)
            return None
        if answer.reply is not None:
            if not self._admitted.allows(answer.node, answer.site):
                drop = Drop(site=f"node-{answer.node}", reason="wrong_name")
            elif not any(site.name == answer.site for site in self._name_sites(nodes)):
                site = ConnectedSite(node=answer.node, name=answer.site, patients=answer.reply.patients)
                self._sites[answer.node] = site
                self.drops.pop(answer.node, None)
                return site
            else:
                drop = Drop(site=answer.site, reason="duplicate", detail="another node has this site's name")
        elif drop is not None and drop.reason in ("timeout", "disconnected", "stopped"):
            self._asked.discard(answer.node)  # it may have been away: ask again next time
        if drop is not None and self.drops.get(answer.node) != drop:
            self.drops[answer.node] = drop
            return drop
        return None
