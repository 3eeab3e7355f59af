"""The privacy terms of a run, and what its report says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy.dp.accountant import epsilon, noise_multiplier, profile
from privacy.dp.terms import NOISED, SUMMED, PrivacyTerms
from privacy.secagg.context import MOST_SITES, Floors, least_threshold
from privacy.secagg.exact_sums import MaskTerms
from server.config.run import RunConfig
from server.record.history import RoundRecord
from shared_model.adapter.count_layout import NORM
from shared_model.core.errors import InputError


def releases(config: RunConfig) -> int:
    """Noisy steps of one round."""
    return config.train.local_steps if config.privacy.mode == "local" else 1


def fewest_sites(mode: str, sites: int, colluders: int) -> int:
    """Fewest sites in a round if the run names none: two, or under secure aggregation all but one if that is enough.

    A smaller number would let more sites be absent, but each site would have to add more noise. In mode masked all
    sites: whoever is not in the first sum is in none.
    """
    if mode == "masked":
        return sites
    return max(least_threshold(sites, colluders), sites - 1) if mode in SUMMED else 2


def check_sums(config: RunConfig) -> None:
    """Raise InputError if a run has numbers of sites that secure aggregation cannot sum."""
    asked, least_sites = config.privacy, config.rounds.min_sites
    if asked.mode not in SUMMED:
        return
    if not Floors.sites <= asked.sites <= MOST_SITES:
        raise InputError(
            f"privacy.sites={asked.sites}: with privacy.mode={asked.mode} expected {Floors.sites} to {MOST_SITES};"
            " with two sites, each could subtract its own part from the sum and see the other's"
        )
    least = least_threshold(asked.sites, asked.colluders)
    if not least <= least_sites <= asked.sites:
        raise InputError(
            f"rounds.min_sites={least_sites}: of {asked.sites} sites with privacy.colluders={asked.colluders} a sum"
            f" under secure aggregation needs {least} or more; expected {least} to {asked.sites}"
        )


def run_terms(config: RunConfig) -> PrivacyTerms | None:
    """The noise that a run's configuration asks for; None in modes masked and none. InputError if it gives no privacy.

    If ``privacy.z`` is 0, the noise is the least with which all rounds, and the statistics before them, together cost
    no more than ``privacy.epsilon``.
    """
    asked = config.privacy
    check_sums(config)
    if asked.mode not in NOISED:
        return None
    steps = config.rounds.count * releases(config)
    if asked.hold_s >= config.rounds.deadline_s:
        raise InputError(
            f"privacy.hold_s={asked.hold_s:g}: no answer would come within the round's"
            f" rounds.deadline_s={config.rounds.deadline_s:g}; expected less"
        )
    counted_q = asked.q if asked.hold_s > 0.0 else 1.0
    counts = statistics_terms(config)
    besides = 0.0 if counts is None else counts.z
    z = asked.z or noise_multiplier(asked.epsilon, asked.delta, counted_q, steps, besides)
    return PrivacyTerms(
        mode=asked.mode,
        z=z,
        q=asked.q,
        steps=steps,
        clip=asked.clip,
        delta=asked.delta,
        cohort=asked.cohort,
        sites=asked.sites,
        survivors=min(config.rounds.min_sites, asked.sites),
        colluders=asked.colluders,
        bits=asked.bits,
        views=asked.views,
        local_steps=config.train.local_steps if asked.mode == "shared" else 1,
        local_lr=asked.local_lr,
        hold_s=asked.hold_s,
    )


def statistics_terms(config: RunConfig) -> PrivacyTerms | None:
    """The noise of the counts of patients before the first round; None where none are asked for.

    One release of everybody: ``privacy.statistics`` is its epsilon.
    """
    asked = config.privacy
    check_sums(config)
    if not asked.statistics:
        return None
    return PrivacyTerms(
        mode="shared",
        z=noise_multiplier(asked.statistics, asked.delta, 1.0, 1),
        q=1.0,
        steps=1,
        clip=NORM,
        delta=asked.delta,
        cohort=asked.cohort,
        sites=asked.sites,
        survivors=min(config.rounds.min_sites, asked.sites),
        colluders=asked.colluders,
        hold_s=asked.hold_s,
    )


def mask_terms(config: RunConfig) -> MaskTerms | None:
    """Return the terms of exact sums in modes masked and local, None in the others. InputError if no ring fits them."""
    asked = config.privacy
    if asked.mode not in ("masked", "local"):
        return None
    check_sums(config)
    return MaskTerms(
        sites=asked.sites,
        survivors=min(config.rounds.min_sites, asked.sites),
        colluders=asked.colluders,
        cohort=asked.cohort,
        weighting=config.aggregate.weighting,
        bound=config.rounds.max_update_norm,
        bits=asked.bits,
    )


def privacy_line(privacy: Mapping[str, Any]) -> str:
    """The ``privacy`` part of a report, in one line for a person."""
    counts = privacy.get("statistics")
    if counts is None:
        return _rounds_line(privacy)
    return (
        f"{_rounds_line(privacy)}; counts of the patients: epsilon {counts['epsilon']:.2f},"
        f" with the rounds {counts['epsilon_with_rounds']:.2f}"
    )


def _rounds_line(privacy: Mapping[str, Any]) -> str:
    if privacy["mode"] == "none":
        return "privacy: NONE; the coordinator saw each site's update as it was"
    if privacy["mode"] == "masked":
        return (
            f"privacy: MASKED; the coordinator saw sums over at least {privacy['survivors']} sites, exact to"
            f" {privacy['rounding']:.1e}; no noise hides a patient"
        )
    if "epsilon" not in privacy:
        return f"privacy: {privacy['mode']}"
    return (
        f"privacy: {privacy['mode']}, epsilon {privacy['epsilon']:.2f} a {privacy['unit']}"
        f" ({privacy['epsilon_all_others_collude']:.2f} if all others collude), delta {privacy['delta']:g},"
        f" {privacy['steps']} steps"
    )


def privacy_report(
    terms: PrivacyTerms | None, history: tuple[RoundRecord, ...], per_round: int, masks: MaskTerms | None = None
) -> dict[str, Any]:
    """What the run promised and spent: mode, two epsilons, delta, z, q, steps and the numbers behind them.

    ``steps`` counts every charged step. A round that was tried twice was released twice, even if an earlier start of
    the run tried it (server/record/attempts.py). The epsilons protect the mode's unit: a patient, or in mode site a
    hospital.
    """
    if terms is None and masks is not None:
        return {
            "mode": "masked",
            "rounding": masks.error,
            "bound": masks.bound,
            "ring_bits": masks.ring_bits,
            "sites": masks.sites,
            "survivors": masks.survivors,
            "colluders": masks.colluders,
        }
    if terms is None:
        return {"mode": "none"}
    steps = sum(record.attempt for record in history) * per_round
    spent = [{(z, terms.counted_q): steps} for z in (terms.z, terms.z_alone)]
    return {
        "mode": terms.mode,
        "unit": "hospital" if terms.mode == "site" else "patient",
        "epsilon": round(epsilon(spent[0], terms.delta), 4),
        "epsilon_all_others_collude": round(epsilon(spent[1], terms.delta), 4),
        "patient_epsilon": round(epsilon(profile([terms.charge(steps)]), terms.delta), 4),
        "delta": terms.delta,
        "z": terms.z,
        "q": terms.q,
        "hold_s": terms.hold_s,
        "steps": steps,
        "clip": terms.clip,
        "cohort": terms.cohort,
        "sites": terms.sites,
        "survivors": terms.survivors,
        "colluders": terms.colluders,
    }
