"""Makes the federation plan of a run: the part of its configuration that each site is asked to agree to."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.agreement.federation_plan import FederationPlan
from privacy.dp.terms import SUMMED, PrivacyTerms
from privacy.wire.tasks import METRICS
from server.config.privacy import mask_terms, run_terms, statistics_terms
from server.config.run import RunConfig
from shared_model.core.errors import InputError

PLAN_DAYS = 90  # as long as a site's certificate


def spare_answers(rounds: int) -> int:
    """Return how many answers beyond one a round a plan allows a site, for rounds that have to be repeated."""
    return max(2, rounds // 10)


@dataclass(frozen=True, kw_only=True)
class Parties:
    """Who agrees to a plan: the consortium's id, its roster's version, the sites with their keys and certificates.

    ``sites``: name -> identity key in hex; ``certificates``: name -> PEM.
    """

    consortium: str
    roster_version: int
    sites: Mapping[str, str]
    certificates: Mapping[str, str]


def make_plan(parties: Parties, config: RunConfig, version: int = 1, days: int = PLAN_DAYS) -> FederationPlan:
    """Return the federation plan of ``config``, valid for ``days``. ``version``: above that of every earlier plan.

    InputError if the privacy terms are for another number of sites.
    """
    sites = parties.sites
    from shared_model.adapter.manifest import initial_vector, manifest_hash
    from shared_model.backbone.prior import normalisation_hash, pin_prior, prior_hash
    from shared_model.core.software import versions
    from shared_model.network.spec import ModelSpec

    spec = pin_prior(ModelSpec.from_json(json.dumps(config.model)))
    terms, exact = run_terms(config), mask_terms(config)
    if config.privacy.mode in SUMMED and config.privacy.sites != len(sites):
        raise InputError(
            f"privacy.sites={config.privacy.sites}: {len(sites)} sites are admitted ({', '.join(sites) or 'none'}), and"
            " the plan names them; admit the others first, or leave privacy.sites out"
        )
    counts = statistics_terms(config)
    privacy, statistics = _without_mode(terms), _without_mode(counts)
    return FederationPlan(
        consortium=parties.consortium,
        name=config.name,
        roster_version=parties.roster_version,
        sites=dict(sites),
        mode=config.privacy.mode,
        privacy=privacy,
        statistics=statistics,
        masks={} if exact is None else exact.to_plain(),
        model=spec.to_json(),
        manifest=manifest_hash(spec),
        prior=prior_hash(spec),
        parameters=int(initial_vector(spec).size),
        normalisation=normalisation_hash(spec),
        least_sites=config.rounds.min_sites,
        rounds=config.rounds.count,
        local_steps=config.train.local_steps,
        batch_size=config.train.batch_size,
        sampler_steps=config.evaluate.sampler_steps,
        candidates=config.evaluate.candidates,
        metrics=METRICS if terms is None else (),
        software=versions(),
        certificates=dict(parties.certificates),
        version=version,
        expires=(dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).isoformat(timespec="seconds"),
        answers=config.rounds.count + spare_answers(config.rounds.count) + (counts is not None),
        stopping=f"after {config.rounds.count} rounds at most; earlier if the coordinator stops it or rounds do harm",
    )


def _without_mode(terms: PrivacyTerms | None) -> dict[str, Any]:
    return {} if terms is None else {key: value for key, value in terms.to_plain().items() if key != "mode"}
