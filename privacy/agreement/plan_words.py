"""What a plan's terms promise, in words for the person who accepts it. The accountant takes about a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privacy.dp.accountant import Charge, epsilon, profile
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.exact_sums import MaskTerms

MODE_WORDS: Mapping[str, str] = {
    "none": "NONE. No differential privacy, no secure aggregation: the coordinator sees each site's update as it is."
    " For tests and simulations",
    "masked": "MASKED. The coordinator sees sums over all sites, and no site's update, loss or score. No noise: a sum"
    " and the adapter may reveal a patient",
    "shared": "patient-level differential privacy; the sites share the noise, under secure aggregation",
    "local": "patient-level differential privacy; each site adds all of its noise itself, under secure aggregation",
    "site": "hospital-level differential privacy; the sites share the noise, under secure aggregation",
}


def masks_in_words(terms: MaskTerms) -> list[str]:
    """Tell what sums without noise show."""
    return [
        f"  sums of updates of norm {terms.bound:g} at most, from at least {terms.survivors} of {terms.sites} sites;"
        f" rounding moves a number of the mean by {terms.error:.1e} at most",
    ]


def statistics_in_words(terms: PrivacyTerms, charges: Sequence[Charge]) -> list[str]:
    """Tell what the counts before the first round say and cost; ``charges``: theirs and those of the rounds."""
    near, alone = (epsilon(profile(charges, alone=alone), terms.delta) for alone in (False, True))
    return [
        "statistics, once: how many patients have which volumes, doses, voxel sizes and organs, as noised counts of all"
        f" sites together; with all rounds a patient's epsilon is {near:.2f}, or {alone:.2f} if all others collude",
    ]


def terms_in_words(terms: PrivacyTerms) -> list[str]:
    """Tell what the terms of the rounds promise."""
    cost = terms.charge(terms.steps)
    whom = f"at most {terms.colluders} colluding sites" if terms.honest > 1 or terms.colluders else "everyone else"
    near, alone = (epsilon(profile([cost], alone=alone), terms.delta) for alone in (False, True))
    return [
        f"  a patient's epsilon over all {terms.steps} releases, at delta {terms.delta:g}: {near:.2f} towards the"
        f" coordinator and {whom}; {alone:.2f} if all others collude",
        f"  noise {terms.z:g} over clipping norm {terms.clip:g}, sampling rate {terms.q:g}"
        f" (counted as {terms.counted_q:g}), {terms.cohort} patients at"
        f" {terms.sites} sites declared, at least {terms.survivors} sites in a sum",
    ]
