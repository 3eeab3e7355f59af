"""The two exchanges of a round: train (add replies to one sum as they arrive) and evaluate (average the metrics)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from privacy.secagg.layout import Packed
from privacy.wire.messages import EvaluateTask, Reply, Request, TrainTask, request, wire_bytes
from privacy.wire.tasks import Task
from server.record.history import Drop, Evaluation, PublicVerdict, RoundRecord, weighted_mean
from server.rounds.masked_sum import MaskedSum
from server.rounds.ring_sum import RingSum
from server.sites.attendance import ANYONE, ConnectedSite, Register
from server.sites.exchange import Answer, Exchange
from server.strategy.choose import Joining
from server.strategy.interface import UpdateRule
from server.strategy.update_sum import UpdateRejectedError
from shared_model.core.vector import Vector

_Value = TypeVar("_Value")
# Called for every answer as it arrives, with the site and, if the answer did not count, the drop.
Witness = Callable[[str, Drop | None], None]


@dataclass(frozen=True, kw_only=True)
class Link:
    """What all requests of a run share, the grid that carries them, and who was admitted."""

    grid: Grid
    run_id: str
    spec_json: str
    manifest_hash: str
    register: Register = ANYONE

    def request(
        self, kind: str, task: Task | None = None, vector: Vector | None = None, secure: Packed | None = None
    ) -> RecordDict:
        """Pack a request of this run."""
        return request(self.make_request(kind, task, vector, secure))

    def make_request(
        self, kind: str, task: Task | None = None, vector: Vector | None = None, secure: Packed | None = None
    ) -> Request:
        """Return a request of this run that is not packed yet."""
        return Request(
            kind=kind,
            run_id=self.run_id,
            spec_json=self.spec_json,
            manifest_hash=self.manifest_hash,
            task=task,
            vector=vector,
            secure=secure,
        )

    def exchange(
        self, kind: str, task: Task, vector: Vector, sites: Sequence[ConnectedSite], deadline_s: float
    ) -> _Open:
        """Send one task to the sites."""
        content = self.request(kind, task, vector)
        exchange = Exchange(self.grid, kind=kind, round_number=task.round, run_id=self.run_id)
        unsent = exchange.send(content, {site.node: site.name for site in sites}, deadline_s)
        return _Open(exchange=exchange, unsent=unsent, sent_bytes=wire_bytes(content) * (len(sites) - len(unsent)))


@dataclass(frozen=True, kw_only=True)
class _Open:
    exchange: Exchange
    unsent: list[Answer]
    sent_bytes: int


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """One train exchange. ``sites`` maps each accepted site to its weight. All mappings are in order of site names.

    If there is no sum, ``total`` is None, ``sites`` is empty, and ``failed`` says why in words, if that is known.
    """

    total: UpdateRule | RingSum | MaskedSum | None
    sites: dict[str, int]
    norms: dict[str, float]
    metrics: dict[str, float]
    per_site: dict[str, dict[str, float]]
    drops: tuple[Drop, ...]
    wire_bytes: int
    wall_s: float
    failed: str = ""

    @property
    def numbers(self) -> NDArray[Any]:
        """The sum as it came: ring numbers (k,), or in mode none what was joined (d,) float64."""
        assert self.total is not None
        return self.total.total if isinstance(self.total, RingSum | MaskedSum) else self.total.mean()

    def record(
        self, number: int, lr: float, attempt: int, drops: tuple[Drop, ...], public: PublicVerdict | None
    ) -> RoundRecord:
        """Return what the history keeps of it as round ``number``. ``drops``: the drops of all attempts."""
        return RoundRecord(
            round=number,
            lr=lr,
            attempt=attempt,
            sites=self.sites,
            norms=self.norms,
            metrics=self.metrics,
            per_site=self.per_site,
            drops=drops,
            wire_bytes=self.wire_bytes,
            wall_s=self.wall_s,
            public=public,
        )


@dataclass(frozen=True, kw_only=True)
class TrainRules:
    """Rules of an exchange: seconds to answer, how updates are joined, whether patients weigh, the attempt's number."""

    deadline_s: float
    joining: Joining
    by_patients: bool
    attempt: int


def hand_out(link: Link, sites: Sequence[ConnectedSite], within_s: float) -> None:
    """Ask the sites once more to describe themselves: their receipts for the last round come with the question."""
    exchange = Exchange(link.grid, kind="describe", round_number=0, run_id=link.run_id)
    exchange.send(link.request("describe"), {site.node: site.name for site in sites}, within_s)
    for _ in exchange.answers():
        pass


def train_step(
    link: Link, task: TrainTask, vector: Vector, sites: Sequence[ConnectedSite], rules: TrainRules, witness: Witness
) -> TrainOutcome:
    """Send ``vector`` (d,) to the sites, join their updates. A site that misbehaves is dropped; the round goes on."""
    started = time.monotonic()
    opened = link.exchange("train", task, vector, sites, rules.deadline_s)
    total = rules.joining.rule(vector, len(sites))
    weights: dict[str, int] = {}
    norms: dict[str, float] = {}
    per_site: dict[str, dict[str, float]] = {}
    drops: list[Drop] = []
    received = 0
    for answer in _all(opened):
        received += answer.wire_bytes
        drop = answer.drop
        if answer.reply is not None:
            weight = answer.reply.patients if rules.by_patients else 1
            try:
                norms[answer.site] = fold(total, answer.reply, weight)
                weights[answer.site] = weight
                per_site[answer.site] = dict(answer.reply.metrics)
            except UpdateRejectedError as error:
                drop = Drop(site=answer.site, reason=error.reason, detail=str(error))
        if drop is not None:
            drops.append(replace(drop, attempt=rules.attempt))
        witness(answer.site, drop)
    return TrainOutcome(
        total=total,
        sites=_by_name(weights),
        norms=_by_name(norms),
        metrics=weighted_mean(per_site, weights),
        per_site=_by_name(per_site),
        drops=_sort_drops(drops),
        wire_bytes=opened.sent_bytes + received,
        wall_s=time.monotonic() - started,
    )


def fold(total: UpdateRule, reply: Reply, weight: int, share: float = 1.0) -> float:
    """Add ``share`` (at most 1) of a reply's update and return the norm of that. Raises UpdateRejectedError."""
    if reply.vector is None:
        raise UpdateRejectedError("schema", "the answer is masked, but the request did not ask for that")
    return total.add(reply.vector if share == 1.0 else reply.vector * np.float32(share), weight)


def evaluate_step(
    link: Link, task: EvaluateTask, vector: Vector, sites: Sequence[ConnectedSite], deadline_s: float, witness: Witness
) -> Evaluation:
    """Have the sites score ``vector``; average their metrics by patients. No quorum: nothing depends on the result."""
    patients: dict[str, int] = {}
    per_site: dict[str, dict[str, float]] = {}
    drops: list[Drop] = []
    for answer in _all(link.exchange("evaluate", task, vector, sites, deadline_s)):
        if answer.reply is not None:
            patients[answer.site] = answer.reply.patients
            per_site[answer.site] = dict(answer.reply.metrics)
        if answer.drop is not None:
            drops.append(answer.drop)
        witness(answer.site, answer.drop)
    ordered = _by_name(per_site)
    return Evaluation(
        metrics=weighted_mean(ordered, patients),
        per_site=ordered,
        patients=_by_name(patients),
        drops=_sort_drops(drops),
    )


def _all(opened: _Open) -> Iterator[Answer]:
    yield from opened.unsent
    yield from opened.exchange.answers()


def _by_name(values: dict[str, _Value]) -> dict[str, _Value]:
    return dict(sorted(values.items()))


def _sort_drops(drops: list[Drop]) -> tuple[Drop, ...]:
    return tuple(sorted(drops, key=lambda drop: (drop.site, drop.reason)))
