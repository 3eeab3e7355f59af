"""The exchanges of every mode but none: secure aggregation of what the sites release. Only sums are seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from privacy.dp.outlook import STEPS_A_SETUP
from privacy.secagg.context import least_threshold
from privacy.wire.tasks import METRICS, EvaluateTask, TrainTask
from server.config.run import RunConfig
from server.config.schedule import round_stage
from server.record.history import Drop, Evaluation
from server.record.signed_sums import keep_record
from server.rounds.advance import Masks
from server.rounds.kept_sums import KeptSum, keep_sum, read_sum
from server.rounds.masked_sum import SumForm
from server.rounds.secure_aggregation import SecureAggregation, SecureRules
from server.rounds.steps import Link, TrainOutcome, Witness
from server.sites.attendance import ConnectedSite, Members
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector

STAGE_S = 120.0


class SummedSteps:
    """The sums of one run, one per step, over the sites of its federation plan or roster. Each is saved in ``out``."""

    def __init__(self, link: Link, form: SumForm, config: RunConfig, masks: Masks, members: Members, out: Path) -> None:
        cohort, rounds, terms = members.cohort, config.rounds, form.who
        if cohort is None:
            raise InputError(
                f"privacy.mode={config.privacy.mode}: masked sums need the sites' identity keys; there are none"
            )
        if len(cohort) != terms.sites:
            raise InputError(
                f"privacy.sites={terms.sites}: {len(cohort)} sites are admitted ({', '.join(cohort.names)})"
            )
        rules = SecureRules(
            threshold=least_threshold(terms.sites, terms.colluders),
            least_survivors=terms.survivors,
            colluders=terms.colluders,
            ring_bits=form.ring_bits,
            steps=min(rounds.count, STEPS_A_SETUP),
            deadline_s=rounds.deadline_s,
            stage_s=min(rounds.deadline_s, STAGE_S),
        )
        self._form, self._config, self._masks, self._out, self._run_id = form, config, masks, out, link.run_id
        self._sums = SecureAggregation(link, cohort, rules, members.plan)
        self._scores = SecureAggregation(link, cohort, rules, members.plan, kind="evaluate")

    def freeze(self, sites: Iterable[str]) -> frozenset[str]:
        """Tell which sites the run's sums so far were over. Return those that every further sum must be over."""
        if self._form.frozen:
            self._sums.frozen = self._scores.frozen = frozenset(sites)
        return self._sums.frozen

    def read_kept(self, number: int) -> tuple[int, TrainOutcome] | None:
        """Return attempt and outcome of a round whose sum is saved because a coordinator died before its checkpoint."""
        found = read_sum(self._out, number)
        if found is None or found.run_id != self._run_id:
            return None
        stage = round_stage(self._config.train, number, self._config.rounds.count)[0]
        return found.attempt, found.outcome(self._form, self._masks(stage))

    def step(
        self, task: TrainTask, vector: Vector, sites: list[ConnectedSite], attempt: int, witness: Witness
    ) -> TrainOutcome:
        """Have the sites release what the task's stage trains; sum the releases. A failed attempt accepts no site."""
        mask = self._masks(task.stage)
        outcome = self._sums.sum(
            sites,
            self._form.length(mask),
            witness,
            round_number=task.round,
            task=task,
            vector=vector,
            attempt=attempt,
        )
        if outcome.record is not None:
            # Before the sum is judged: a sum that is too large to be honest is the very one that people dispute.
            keep_record(self._out, self._run_id, attempt, outcome.record)
        total = None if outcome.total is None else self._form.read(mask, outcome.total)
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
        return replace(found.outcome(self._form, mask), failed=outcome.failed or excess)

    def evaluate(self, task: EvaluateTask, vector: Vector, sites: list[ConnectedSite], witness: Witness) -> Evaluation:
        """Have the sites score ``vector`` (d,); return the means over their patients, and no site's own scores.

        A failed exchange gives no metrics. It is not repeated, since nothing depends on it.
        """
        exact = self._form.exact
        assert exact is not None
        found = self._scores.sum(
            sites, exact.length(0, METRICS), witness, round_number=task.round, task=task, vector=vector
        )
        total = None if found.total is None else self._form.read_scores(found.total)
        for site in found.sites:
            witness(site, None)
        return Evaluation(
            metrics={} if total is None else dict(total.means),
            per_site={site: {} for site in found.sites},
            patients={},
            drops=found.drops,
        )
