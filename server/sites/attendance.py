"""Who takes part: each connected node is asked once for its site's name and number of patients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict
from flwr.serverapp import Grid

from privacy.flower.processes import read_state
from privacy.secagg.context import Cohort
from server.record.history import Drop
from server.sites.exchange import Answer, Exchange, Pause, connected_nodes


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


ANYONE = Register(None)


@dataclass(frozen=True, kw_only=True)
class Members:
    """Who may take part in a run.

    ``cohort``: for secure aggregation, the sites of the federation plan or roster with their identity keys, or None;
    ``plan``: SHA-256 of the signed plan that the sites have pinned, empty without one.
    """

    register: Register = ANYONE
    cohort: Cohort | None = None
    plan: bytes = b""


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
        self.drops: dict[int, Drop] = {}

    def gather(
        self, *, min_sites: int, wait_s: float, names: frozenset[str] = frozenset()
    ) -> Iterator[ConnectedSite | Drop]:
        """Yield new sites and drops. It ends when ``min_sites`` and the sites ``names`` are there, or time is over.

        It waits for silent nodes, too. With ``wait_s`` 0 it only handles what has arrived. ``present`` has the result.
        """
        end = time.monotonic() + wait_s
        pause = Pause()
        # A failure may be fixed by now, and a name may have become free: ask once more.
        self._asked -= set(self.drops) - self._exchange.waiting_for
        while True:
            nodes = connected_nodes(self._grid)
            new = sorted(nodes - self._asked)
            self._asked.update(new)
            unsent = self._exchange.send(self._describe, {n: f"node-{n}" for n in new}, self._answer_within_s)
            arrived = sorted([*unsent, *self._exchange.poll()], key=lambda answer: answer.node)
            news = [self._register(answer, nodes) for answer in [*arrived, *self._exchange.expire()]]
            yield from filter(None, news)
            silent = self._exchange.waiting_for & nodes
            here = {site.name for site in self._name_sites(nodes)}
            if time.monotonic() >= end or (not silent and len(here) >= min_sites and names <= here):
                return
            pause.after(progress=bool(arrived))

    def present(self) -> list[ConnectedSite]:
        """Return the sites that are connected now, in order of names."""
        return self._name_sites(connected_nodes(self._grid))

    def _name_sites(self, nodes: set[int]) -> list[ConnectedSite]:
        return sorted((s for s in self._sites.values() if s.node in nodes), key=lambda site: site.name)

    def _register(self, answer: Answer, nodes: set[int]) -> ConnectedSite | Drop | None:
        drop = answer.drop
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
