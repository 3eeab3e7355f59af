"""Makes the federation plan of a run: the part of its configuration that each site is asked to agree to."""

from __future__ import annotations

import json
from collections.abc import Mapping

from privacy.agreement.federation_plan import FederationPlan
from privacy.dp.terms import SUMMED
from server.config.privacy import run_terms
from server.config.run import RunConfig
from shared_model.core.errors import InputError

# Metrics that client/training/train.py and dosimetry.summarise report. A site's policy may withhold any of them.
METRICS = ("loss", "seconds", "dose_score_gy", "dvh_score_gy", "mae_ref5_gy", "mae_gdp_gy", "patients")


def make_plan(consortium: str, roster_version: int, sites: Mapping[str, str], config: RunConfig) -> FederationPlan:
    """Return the federation plan of ``config``. ``sites``: name -> identity key in hex, for each of the consortium.

    InputError if the privacy terms are for another number of sites.
    """
    from shared_model.adapter.manifest import initial_vector, manifest_hash
    from shared_model.backbone.prior import normalisation_hash, pin_prior, prior_hash
    from shared_model.core.software import versions
    from shared_model.network.spec import ModelSpec

    spec = pin_prior(ModelSpec.from_json(json.dumps(config.model)))
    terms = run_terms(config)
    if terms is not None and terms.mode in SUMMED and terms.sites != len(sites):
        raise InputError(
            f"privacy.sites={terms.sites}: {len(sites)} sites are admitted ({', '.join(sites) or 'none'}), and the plan"
            " names them; admit the others first, or leave privacy.sites out"
        )
    privacy = {} if terms is None else {key: value for key, value in terms.to_plain().items() if key != "mode"}
    return FederationPlan(
        consortium=consortium,
        name=config.name,
        roster_version=roster_version,
        sites=dict(sites),
        mode=config.privacy.mode,
        privacy=privacy,
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
        stopping=f"after {config.rounds.count} rounds at most; earlier if the coordinator stops it or rounds do harm",
    )
