"""The train exchange of modes shared and site: secure aggregation of noised releases. Only their sum is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privacy.dp.outlook import STEPS_A_SETUP
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.context import least_threshold
from privacy.wire.tasks import TrainTask
from server.config.run import RunConfig
from server.config.schedule import round_stage
from server.record.history import Drop
from server.rounds.advance import Masks
from server.rounds.kept_sums import KeptSum, keep_sum, read_sum
from server.rounds.ring_sum import RingSum
from server.rounds.secure_aggregation import SecureAggregation, SecureRules
from server.rounds.steps import Link, TrainOutcome, Witness
from server.sites.attendance import ConnectedSite, Members
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector

STAGE_S = 120.0


class SummedSteps:
    """The sums of one run, one per step, over the sites of its federation plan or roster. Each is saved in ``out``."""

    def __init__(
        self, link: Link, terms: PrivacyTerms, config: RunConfig, masks: Masks, members: Members, out: Path
    ) -> None:
        cohort, rounds = members.cohort, config.rounds
        if cohort is None:
            raise InputError(f"privacy.mode={terms.mode}: masked sums need the sites' identity keys; there are none")
        if len(cohort) != terms.sites:
            raise InputError(
                f"privacy.sites={terms.sites}: {len(cohort)} sites are admitted ({', '.join(cohort.names)})"
            )
        rules = SecureRules(
            threshold=least_threshold(terms.sites, terms.colluders),
            least_survivors=terms.survivors,
            colluders=terms.colluders,
            ring_bits=terms.encoding().bits,
            steps=min(rounds.count, STEPS_A_SETUP),
            deadline_s=rounds.deadline_s,
            stage_s=min(rounds.deadline_s, STAGE_S),
        )
        self._terms, self._config, self._masks, self._out, self._run_id = terms, config, masks, out, link.run_id
        self._sums = SecureAggregation(link, cohort, rules, members.plan)

    def read_kept(self, number: int) -> tuple[int, TrainOutcome] | None:
        """Return attempt and outcome of a round whose sum is saved because a coordinator died before its checkpoint."""
        found = read_sum(self._out, number)
        if found is None or found.run_id != self._run_id:
            return None
        stage = round_stage(self._config.train, number, self._config.rounds.count)[0]
        return found.attempt, found.outcome(self._terms, self._masks(stage))

    def step(
        self, task: TrainTask, vector: Vector, sites: list[ConnectedSite], attempt: int, witness: Witness
    ) -> TrainOutcome:
        """Have the sites release what the task's stage trains; sum the releases. A failed attempt accepts no site."""
        mask = self._masks(task.stage)
        outcome = self._sums.sum(
            "train",
            sites,
            int(mask.sum()),
            witness,
            round_number=task.round,
            task=task,
            vector=vector,
            attempt=attempt,
        )
        total = None if outcome.total is None else RingSum(self._terms, mask, outcome.total)
        drops, accepted = list(outcome.drops), outcome.sites
        excess = "" if total is None else total.excess()
        if excess:
            # Nobody can tell whose fault it is, so no release counts.
            drops += [Drop(site=s, reason="norm_exceeded", detail=excess, attempt=attempt) for s in accepted]
            total, accepted = None, ()
        for site in accepted:
            witness(site, None)
        found = KeptSum(
            run_id=self._run_id,
            attempt=attempt,
            total=None if total is None else total.total,
            sites=accepted,
            drops=tuple(drops),
            wire_bytes=outcome.wire_bytes,
            wall_s=outcome.wall_s,
        )
        if total is not None:
            keep_sum(self._out, task.round, found)
        return replace(found.outcome(self._terms, mask), failed=outcome.failed or excess)
