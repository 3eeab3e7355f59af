"""Noised counts of the sites' patients, summed once before the first round: the ranges in the adapter's card.

One secure sum like those of the rounds, with noise of its own (docs/decisions/0057-federated-statistics.md). It is
asked for once: if it fails, the run goes on, and the card has no ranges.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from server.rounds.ring_sum import RingSum
from server.rounds.secure_aggregation import SecureAggregation, SecureRules
from server.rounds.secure_step import STAGE_S
from server.rounds.steps import Link, Witness
from server.sites.attendance import ConnectedSite, Members
from shared_model.adapter.count_layout import LAYOUT, SIZE
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

FILE = "patient_counts.json"


@dataclass(frozen=True, kw_only=True)
class PatientCounts:
    """``counts`` of all ``sites`` together, empty until they are there; each has noise of ``noise_sd`` patients.

    ``asked``: how often the sites were asked, and so charged; more than once where a coordinator died in between.
    ``failed``: why there are none, in words.
    """

    run_id: str
    asked: int
    counts: tuple[float, ...] = ()
    noise_sd: float = 0.0
    sites: tuple[str, ...] = ()
    failed: str = ""

    @classmethod
    def read(cls, out: Path) -> PatientCounts | None:
        """Return what the run in ``out`` knows of its patients; None where it did not ask. InputError when damaged."""
        path = out / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**found, "counts": tuple(found["counts"]), "sites": tuple(found["sites"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({type(error).__name__}); restore it, or delete it") from error

    def write(self, out: Path) -> None:
        """Write it whole; StorageError when the disk is full."""
        write_text(out / FILE, json.dumps(asdict(self), indent=1), mode=ORDINARY)

    def trained_on(self, patients: int) -> dict[str, Any] | None:
        """Return the card's ``trained_on`` for so many declared patients; None where there are no counts."""
        from shared_model.adapter.envelope_counts import noised_envelope

        if not self.counts:
            return None
        found = noised_envelope(np.array(self.counts), self.noise_sd, patients)
        return {**found.record(), "noise_sd": float(f"{self.noise_sd:.4g}"), "sites": len(self.sites)}

    def cost(self, config: RunConfig, steps: int) -> dict[str, Any]:
        """Return what the counts cost a patient, alone and with ``steps`` charged steps of the rounds."""
        terms, rounds = statistics_terms(config), run_terms(config)
        assert terms is not None
        own, all_of_it = [terms.charge(self.asked)], [terms.charge(self.asked)]
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
            "releases": self.asked,
            "failed": self.failed,
        }


def count_patients(
    link: Link,
    config: RunConfig,
    members: Members,
    out: Path,
    gather: Callable[[], list[ConnectedSite]],
    witness: Witness,
    emit: Listener,
) -> None:
    """Ask the sites for their counts and keep the sum in ``out``, unless nobody wants it or it has been tried."""
    terms, known = statistics_terms(config), PatientCounts.read(out)
    if terms is None or members.cohort is None:
        return
    if known is not None and known.run_id == link.run_id and (known.counts or known.failed):
        return
    before = known.asked if known is not None and known.run_id == link.run_id else 0
    asked = PatientCounts(run_id=link.run_id, asked=before + 1)
    sites = gather()
    asked.write(out)  # before anybody is charged
    found = _sum(asked, link, config, members, terms, sites, witness)
    found.write(out)
    said = f"patients counted at {len(found.sites)} sites" if found.counts else f"no patients counted: {found.failed}"
    emit(Event(kind="notice", sites=len(found.sites), detail=said))


def _sum(
    asked: PatientCounts,
    link: Link,
    config: RunConfig,
    members: Members,
    terms: PrivacyTerms,
    sites: list[ConnectedSite],
    witness: Witness,
) -> PatientCounts:
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
    if outcome.total is None:
        return replace(asked, failed=outcome.failed or "the sum failed")
    total = RingSum(terms, np.ones(SIZE, dtype=bool), outcome.total)
    if excess := total.excess():
        return replace(asked, failed=excess)
    return replace(
        asked,
        counts=tuple(round(float(count), 3) for count in how.decode(outcome.total)),
        noise_sd=terms.z_alone * terms.clip * math.sqrt(len(outcome.sites)),
        sites=outcome.sites,
    )
