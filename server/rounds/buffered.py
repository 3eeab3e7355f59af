"""Rounds that do not wait for the slowest site: a round is over when ``buffer`` updates are there (FedBuff).

Nguyen et al. 2022, arXiv:2106.06639. A site works on without a break: whoever has answered gets the newest vector with
the next round, and whoever is still at work is left to it. An update that began ``s`` rounds ago counts 1 / sqrt(1 + s)
of its length. Which updates meet in a round depends on time, so two runs do not give the same hash. It works where the
coordinator sees each update: in mode none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from privacy.wire.messages import TrainTask, wire_bytes
from server.record.history import Drop, weighted_mean
from server.rounds.steps import Link, TrainOutcome, TrainRules, Witness, fold
from server.sites.attendance import ConnectedSite
from server.sites.exchange import Answer, Exchange, Pause
from server.strategy.update_sum import UpdateRejectedError, check_update
from shared_model.core.vector import Vector

STALENESS = "staleness"  # among a site's metrics: how many rounds its update began before the one that it is in


class BufferedSteps:
    """The requests that are under way at sites of one run, and what a round makes of those that come in."""

    def __init__(self, link: Link, buffer: int) -> None:
        self._link, self._buffer = link, buffer
        self._open: dict[str, tuple[int, Exchange]] = {}

    @property
    def at_work(self) -> frozenset[str]:
        """Sites whose answer is awaited."""
        return frozenset(self._open)

    def step(
        self, task: TrainTask, vector: Vector, sites: Sequence[ConnectedSite], rules: TrainRules, witness: Witness
    ) -> TrainOutcome:
        """Ask every site that is not at work, then join updates until ``buffer`` are in or nobody is at work."""
        started = time.monotonic()
        drops, size = self._ask(task, vector, sites, rules)
        total = rules.joining.rule(vector, self._buffer)
        weights: dict[str, int] = {}
        norms: dict[str, float] = {}
        per_site: dict[str, dict[str, float]] = {}
        for site, began, answer in self._arriving():
            size += answer.wire_bytes
            drop = answer.drop
            if answer.reply is not None:
                weight = answer.reply.patients if rules.by_patients else 1
                late = task.round - began
                try:
                    self._check(answer, rules, vector.size)
                    norms[site] = fold(total, answer.reply, weight, 1.0 / math.sqrt(1 + late))
                    weights[site] = weight
                    per_site[site] = {**answer.reply.metrics, STALENESS: float(late)}
                except UpdateRejectedError as error:
                    drop = Drop(site=site, reason=error.reason, detail=str(error))
            if drop is not None:
                drops.append(replace(drop, attempt=rules.attempt))
            witness(site, drop)
            if len(weights) == self._buffer:
                break
        return TrainOutcome(
            total=total,
            sites=dict(sorted(weights.items())),
            norms=dict(sorted(norms.items())),
            metrics=weighted_mean(per_site, weights),
            per_site=dict(sorted(per_site.items())),
            drops=tuple(sorted(drops, key=lambda drop: (drop.site, drop.reason))),
            wire_bytes=size,
            wall_s=time.monotonic() - started,
        )

    def _ask(
        self, task: TrainTask, vector: Vector, sites: Sequence[ConnectedSite], rules: TrainRules
    ) -> tuple[list[Drop], int]:
        """Send the task to those who are not at work; returns who could not be reached, and the bytes sent."""
        content = self._link.request("train", task, vector)
        drops, size = [], 0
        for site in sites:
            if site.name in self._open:
                continue
            exchange = Exchange(self._link.grid, kind="train", round_number=task.round, run_id=self._link.run_id)
            unsent = exchange.send(content, {site.node: site.name}, rules.deadline_s)
            if unsent:
                drops += [replace(answer.drop, attempt=rules.attempt) for answer in unsent if answer.drop is not None]
            else:
                self._open[site.name] = (task.round, exchange)
                size += wire_bytes(content)
        return drops, size

    def _check(self, answer: Answer, rules: TrainRules, size: int) -> None:
        """A late update obeys the limit at its whole length, and its site must still be admitted when it comes."""
        if not self._link.register.allows(answer.node, answer.site):
            raise UpdateRejectedError("wrong_name", "the site was shut out while it worked")
        if answer.reply is not None and answer.reply.vector is not None:
            check_update(answer.reply.vector, size, rules.joining.max_norm)

    def _arriving(self) -> Iterator[tuple[str, int, Answer]]:
        """Yield (site, round in which it began, answer) as answers come in or their time is over."""
        pause = Pause()
        while self._open:
            before = len(self._open)
            for site, (began, exchange) in list(self._open.items()):
                for answer in (*exchange.poll(), *exchange.expire()):
                    self._open.pop(site, None)
                    yield site, began, answer
            pause.after(progress=len(self._open) < before)
