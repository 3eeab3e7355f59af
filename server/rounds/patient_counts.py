"""Noised counts of the sites' patients, summed once before the first round: the ranges in the adapter's card.

One secure sum like those of the rounds, with noise of its own (docs/decisions/0057-federated-statistics.md). It is
asked for once: if it fails, the run goes on, and the card has no ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from privacy.dp.accountant import epsilon, profile
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.context import least_threshold
from privacy.wire.tasks import StatisticsTask
from server.config.privacy import run_terms, statistics_terms
from server.config.run import RunConfig
from server.record.events import Event, Listener
from server.record.patient_counts import PatientCounts
from server.record.signed_sums import keep_record
from server.rounds.kept_sums import BEFORE, KeptSum, keep_sum, read_sum
from server.rounds.ring_sum import RingSum
from server.rounds.secure_aggregation import SecureAggregation, SecureRules
from server.rounds.secure_step import STAGE_S
from server.rounds.steps import Link, Witness
from server.sites.attendance import ConnectedSite, Members
from shared_model.adapter.count_layout import LAYOUT, SIZE


def counts_cost(counts: PatientCounts, config: RunConfig, steps: int) -> dict[str, Any]:
    """Return what ``counts`` cost a patient, alone and with ``steps`` charged steps of the rounds."""
    terms, rounds = statistics_terms(config), run_terms(config)
    assert terms is not None
    own, all_of_it = [terms.charge(counts.asked)], [terms.charge(counts.asked)]
    if rounds is not None and steps:
        all_of_it.append(rounds.charge(steps))

    def spent(charges: list[Any], alone: bool) -> float:
        return round(epsilon(profile(charges, alone=alone), terms.delta), 4)

    return {
        "epsilon": spent(own, False),
        "epsilon_all_others_collude": spent(own, True),
        "epsilon_with_rounds": spent(all_of_it, False),
        "epsilon_with_rounds_all_others_collude": spent(all_of_it, True),
        "delta": terms.delta,
        "releases": counts.asked,
        "failed": counts.failed,
    }


def counted(config: RunConfig, kept: KeptSum) -> PatientCounts:
    """Decode a saved sum: the counts that follow from it. FedKT3DError when it is none of this run's terms."""
    terms = statistics_terms(config)
    assert terms is not None
    total = RingSum(terms, np.ones(SIZE, dtype=bool), kept.ring).total
    return PatientCounts(
        run_id=kept.run_id,
        asked=kept.attempt,
        counts=tuple(round(float(count), 3) for count in terms.encoding().decode(total)),
        noise_sd=terms.z_alone * terms.clip * math.sqrt(len(kept.sites)),
        sites=kept.sites,
    )


def count_patients(
    link: Link,
    config: RunConfig,
    members: Members,
    out: Path,
    gather: Callable[[], list[ConnectedSite]],
    witness: Witness,
    emit: Listener,
) -> None:
    """Ask the sites for their counts and keep the sum in ``out``, unless nobody wants it or it has been tried.

    The sum is on the disk before anything is made of it: a coordinator that died in between asks nobody again.
    """
    terms, known, kept = statistics_terms(config), PatientCounts.read(out), read_sum(out, BEFORE)
    if terms is None or members.cohort is None:
        return
    before = 0
    if known is not None and known.run_id == link.run_id:
        if known.counts or known.failed:
            return
        before = known.asked
    if kept is None or kept.run_id != link.run_id:
        asked = PatientCounts(run_id=link.run_id, asked=before + 1)
        sites = gather()
        asked.write(out)  # before anybody is charged
        kept, failed = _sum(asked.asked, link, config, members, out, terms, sites, witness)
        if kept is None:
            replace(asked, failed=failed).write(out)
            emit(Event(kind="notice", detail=f"no patients counted: {failed}"))
            return
        keep_sum(out, BEFORE, kept)
    found = counted(config, kept)
    ranges = found.trained_on(config.privacy.cohort)
    if members.log is not None and ranges is not None:  # before the counts: what a card is made of is in the log
        members.log.add_statistics(link.run_id, kept.attempt, kept.sites, kept.ring, ranges)
    found.write(out)
    emit(Event(kind="notice", sites=len(found.sites), detail=f"patients counted at {len(found.sites)} sites"))


def _sum(
    attempt: int,
    link: Link,
    config: RunConfig,
    members: Members,
    out: Path,
    terms: PrivacyTerms,
    sites: list[ConnectedSite],
    witness: Witness,
) -> tuple[KeptSum | None, str]:
    """Return the sites' sum; or None, and in words why there is none."""
    assert members.cohort is not None
    how, deadline_s = terms.encoding(), config.rounds.deadline_s
    rules = SecureRules(
        threshold=least_threshold(terms.sites, terms.colluders),
        least_survivors=terms.survivors,
        colluders=terms.colluders,
        ring_bits=how.bits,
        steps=1,
        deadline_s=deadline_s,
        stage_s=min(deadline_s, STAGE_S),
    )
    sums = SecureAggregation(link, members.cohort, rules, members.plan, kind="statistics")
    task = StatisticsTask(size=SIZE, layout=LAYOUT, privacy=terms.to_json())
    outcome = sums.sum(sites, SIZE, witness, task=task)
    if outcome.record is not None:
        keep_record(out, link.run_id, attempt, outcome.record)  # before the sum is judged, as in a round
    if outcome.total is None:
        return None, outcome.failed or "the sum failed"
    if excess := RingSum(terms, np.ones(SIZE, dtype=bool), outcome.total).excess():
        return None, excess
    kept = KeptSum(
        run_id=link.run_id,
        attempt=attempt,
        total=outcome.total,
        sites=outcome.sites,
        drops=outcome.drops,
        wire_bytes=outcome.wire_bytes,
        wall_s=outcome.wall_s,
    )
    return kept, ""
