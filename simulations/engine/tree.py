"""A tree of aggregators: regions sum their sites' updates, and the coordinator sums the regions.

To the coordinator a region is a site like any other: it describes itself with the patients of all its sites, and its
update is their mean, weighted by patients. So the coordinator opens as many messages as there are regions, and the
regions work side by side (with ProcessGrid on all cores). A region is the round loop's own exchange over a grid that
lives for one request. It stops waiting for its sites before the coordinator stops waiting for it, so that a silent
site costs itself alone. Its mean is rounded to float32 once more than in a flat federation, by half a unit in the last
place. Sums of integers, as under masks, are equal to the bit (``sum_of_sums``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp

from privacy.dp.encoding import Ring
from privacy.wire.messages import EvaluateTask, Reply, Request, TrainTask, parse_request, reply, request
from server.config.groups import AggregateConfig
from server.config.run import RunConfig
from server.record.history import Drop
from server.rounds.steps import Link, TrainRules, evaluate_step, train_step
from server.sites.attendance import ConnectedSite
from server.sites.exchange import Exchange
from server.strategy.choose import Joining
from shared_model.core.errors import FedKT3DError, InputError
from simulations.engine.local_grid import LocalGrid

REGION_KEY = "region"
# Shares of the coordinator's deadline that a region waits for its sites: to say who they are, and to work.
_DESCRIBE, _WORK = 0.1, 0.8


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The middle floor of a federation: which sites each region has, and how long a region waits for them.

    InputError unless there are 1 region or more and every region has a site.
    """

    app: ClientApp
    regions: Sequence[Sequence[UserConfig]]
    config: RunConfig

    @classmethod
    def of(cls, app: ClientApp, sites: Sequence[UserConfig], regions: int, config: RunConfig) -> Tree:
        """Deal the sites out to so many regions, one after the other."""
        if not 1 <= regions <= len(sites):
            raise InputError(f"tree: {regions} regions for {len(sites)} sites; expected 1 to {len(sites)}")
        if config.aggregate.rule != "mean" or config.aggregate.weighting != "patients":
            raise InputError("tree: regions send means; expected aggregate.rule=mean and weighting=patients")
        if config.rounds.buffer:
            raise InputError("tree: a region answers with all its sites at once; expected rounds.buffer=0")
        return cls(app=app, regions=[sites[place::regions] for place in range(regions)], config=config)

    def nodes(self) -> list[UserConfig]:
        """The node configs of the regions, as the coordinator's own grid takes them."""
        return [{REGION_KEY: place} for place in range(len(self.regions))]

    def region_app(self) -> ClientApp:
        """The app of every region."""

        def answer(message: Message, context: Context) -> Message:
            place = int(str(context.node_config[REGION_KEY]))
            asked = parse_request(message.content)
            told = self._answer(asked, self.regions[place])
            content = reply(
                Reply(
                    kind=asked.kind,
                    site=f"region-{place}",
                    round=asked.round,
                    run_id=asked.run_id,
                    schema=asked.schema,
                    **told,
                )
            )
            return Message(content, reply_to=message)

        app = ClientApp()
        for register in (app.query(), app.train(), app.evaluate()):
            register(answer)
        return app

    def _answer(self, asked: Request, nodes: Sequence[UserConfig]) -> dict[str, Any]:
        with LocalGrid(self.app, nodes) as grid:
            link = Link(grid=grid, run_id=asked.run_id, spec_json=asked.spec_json, manifest_hash=asked.manifest_hash)
            sites = self._described(link)
            if isinstance(asked.task, TrainTask) and asked.vector is not None:
                outcome = train_step(link, asked.task, asked.vector, sites, self._rules(self.config.aggregate), _nobody)
                if outcome.total is None or not outcome.sites:
                    raise FedKT3DError("tree: no site of this region gave an update")
                mean = outcome.total.mean().astype(np.float32)
                return {"patients": sum(outcome.sites.values()), "vector": mean, "metrics": outcome.metrics}
            if isinstance(asked.task, EvaluateTask) and asked.vector is not None:
                within = _WORK * self.config.rounds.deadline_s
                found = evaluate_step(link, asked.task, asked.vector, sites, within, _nobody)
                return {"patients": sum(found.patients.values()), "metrics": found.metrics}
            return {"patients": sum(site.patients for site in sites)}

    def _described(self, link: Link) -> list[ConnectedSite]:
        exchange = Exchange(link.grid, kind="describe", round_number=0, run_id=link.run_id)
        exchange.send(
            request(link.make_request("describe")),
            {node: f"node-{node}" for node in link.grid.get_node_ids()},
            _DESCRIBE * self.config.rounds.deadline_s,
        )
        found = [
            ConnectedSite(node=answer.node, name=answer.site, patients=answer.reply.patients)
            for answer in exchange.answers()
            if answer.reply is not None
        ]
        return sorted(found, key=lambda site: site.name)

    def _rules(self, aggregate: AggregateConfig) -> TrainRules:
        rounds = self.config.rounds
        joining = Joining(config=aggregate, max_norm=rounds.max_update_norm)
        return TrainRules(deadline_s=_WORK * rounds.deadline_s, joining=joining, by_patients=True, attempt=1)


def _nobody(site: str, drop: Drop | None) -> None:
    """The region's own drops are not told on."""


def sum_of_sums(masked: Mapping[str, Ring], regions: int) -> Ring:
    """Sum masked vectors (k,) region by region, then the regions: the same numbers as in one sum, to the bit.

    The ring's addition is associative, so a region needs no key and sees nothing but masked vectors and their sum. Each
    site has signed its masked vector: a region that sums holds the vectors against the signatures, as the coordinator
    of a flat federation does (privacy/secagg/summation.py), and hands the signed messages on.
    """
    names = sorted(masked)
    return _sum([_sum([masked[name] for name in names[place::regions]]) for place in range(min(regions, len(names)))])


def _sum(vectors: Sequence[Ring]) -> Ring:
    total = vectors[0].copy()
    for vector in vectors[1:]:
        total += vector
    return total
