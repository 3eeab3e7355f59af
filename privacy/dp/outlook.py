"""What privacy terms cost and allow: epsilons, exchanges, hours, gigabytes, adapter size. Known before training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.dp.accountant import checked_epsilon
from privacy.dp.terms import NOISE_SHARED, PrivacyTerms

# Exchanges of secure aggregation per step (masked vector, who is in, unmask) and per set-up of keys; steps per set-up.
EXCHANGES_A_STEP, EXCHANGES_A_SETUP, STEPS_A_SETUP = 3, 2, 16
# Least and most seconds that an exchange took in a deployment on one machine (docs/results/deployed_round.md).
EXCHANGE_S = (3.4, 6.9)
_VALUE_BYTES = 4  # the shared vector travels down as float32
# A plan with more numbers than this many times the useful size is called hopeless.
_HOPELESS = 10.0
# Assumptions of "numbers that pay": cosine of one patient's clipped vector with the mean of all, from low to high, and
# the norm of the noise in that mean as a share of the mean's own. They are guesses from practice, not measured here.
ALIGNMENT = (0.14, 0.31)
NOISE_SHARE = 0.3
# Up to so many numbers, what there is to train (shared_model/network/spec.py, ADAPTERS).
_KINDS = (
    (2_000, "a last layer, FiLM or biases: model.adapter=head, film, bias or base"),
    (50_000, "all biases, or a low-rank adapter of rank 1 to 2: model.adapter=bias or lora"),
    (10**12, "a low-rank adapter, or the whole network: model.adapter=lora or full"),
)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Figures of a federation plan. ``useful``: how many adapter numbers the noise leaves room for.

    ``pays``: from and to how many numbers an adapter should have, under the assumptions ALIGNMENT and NOISE_SHARE.
    ``hours``: least and most; ``gigabytes``: one site's traffic in both directions; ``warnings``: in words, empty for
    a plan that may work.
    """

    epsilon: float
    epsilon_alone: float
    exchanges: int
    hours: tuple[float, float]
    gigabytes: float
    parameters: int
    useful: int
    pays: tuple[int, int]
    warnings: tuple[str, ...]


def gaussian_mu(spent: float, delta: float) -> float:
    """Return mu of the Gaussian mechanism with (``spent``, ``delta``) (Balle and Wang 2018, theorem 8)."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def excess(mu: float) -> float:
        tail = math.exp(min(spent + float(log_ndtr(-mu / 2 - spent / mu)), 0.0))
        return float(ndtr(mu / 2 - spent / mu)) - tail - delta

    return float(brentq(excess, 1e-6, 1e3))


def useful_size(spent: float, delta: float, units: float) -> int:
    """Return (mu n)^2. Rule of thumb: with more numbers, the noise in n patients' mean outweighs the signal."""
    return int((gaussian_mu(spent, delta) * units) ** 2)


def paying_sizes(spent: float, delta: float, units: float) -> tuple[int, int]:
    """Return from and to how many numbers pay for n units: (alignment x share x mu n)^2.

    The mean of n vectors of norm C has a norm of alignment x C. The noise in it has sqrt(d) C / (mu n). The share of
    the second in the first is NOISE_SHARE at this d.
    """
    low, high = ((a * NOISE_SHARE * gaussian_mu(spent, delta) * units) ** 2 for a in ALIGNMENT)
    return int(low), int(high)


def exchanges_of(rounds: int) -> int:
    """Return how many exchanges the secure sums of so many rounds take."""
    return EXCHANGES_A_STEP * rounds + EXCHANGES_A_SETUP * math.ceil(rounds / STEPS_A_SETUP)


def outlook(terms: PrivacyTerms, parameters: int, rounds: int, ring_bits: int = 32) -> Outlook:
    """Compute the figures for an adapter of ``parameters`` numbers over ``rounds`` rounds; takes some seconds.

    ``ring_bits``: the ring of mode local, whose noise is not drawn in the ring.

    Raises AccountantError where two independent accountants disagree on an epsilon.
    """
    near, alone = (checked_epsilon({(z, terms.counted_q): terms.steps}, terms.delta) for z in (terms.z, terms.z_alone))
    exchanges = exchanges_of(rounds)
    up = (terms.encoding().bits if terms.mode in NOISE_SHARED else ring_bits) / 8
    units = {"shared": float(terms.cohort), "local": terms.cohort / terms.sites, "site": float(terms.sites)}[terms.mode]
    useful = useful_size(near, terms.delta, units)
    return Outlook(
        epsilon=near,
        epsilon_alone=alone,
        exchanges=exchanges,
        hours=(exchanges * EXCHANGE_S[0] / 3600, exchanges * EXCHANGE_S[1] / 3600),
        gigabytes=rounds * parameters * (_VALUE_BYTES + up) / 1e9,
        parameters=parameters,
        useful=useful,
        pays=paying_sizes(near, terms.delta, units),
        warnings=tuple(_warnings(terms, near, parameters, useful)),
    )


def _warnings(terms: PrivacyTerms, near: float, parameters: int, useful: int) -> list[str]:
    found = []
    if parameters > _HOPELESS * useful:
        found.append(
            f"HOPELESS: {parameters:,} numbers, but this budget and cohort leave room for about {useful:,}; train a"
            " smaller adapter, include more patients, or spend more epsilon"
        )
    elif parameters > useful:
        found.append(f"doubtful: {parameters:,} numbers, but there is room for about {useful:,}")
    if terms.mode in NOISE_SHARED and terms.honest == 1:
        found.append(
            "no noise is shared: survivors minus colluders is 1, so each site adds all of the noise; ask for more sites"
        )
    if terms.delta > 1.0 / terms.cohort:
        found.append(f"delta {terms.delta:g} is above 1 in {terms.cohort} patients: it may reveal one of them")
    if near > 10.0:
        found.append(f"epsilon {near:.1f} promises a patient little")
    return found


def table(found: Outlook) -> list[str]:
    """Return the figures as lines for a person to read."""
    low, high = found.hours
    rows = [
        ("epsilon, coordinator and colluders", f"{found.epsilon:.2f}"),
        ("epsilon, if all others collude", f"{found.epsilon_alone:.2f}"),
        ("exchanges in a deployment", f"{found.exchanges:,}"),
        ("hours of exchanges, before training", f"{low:.1f} to {high:.1f}"),
        ("gigabytes at each site", f"{found.gigabytes:.2f}"),
        ("numbers that are trained", f"{found.parameters:,}"),
        ("numbers that can be learned, at most", f"{found.useful:,}"),
        ("numbers that pay, about", f"{found.pays[0]:,} to {found.pays[1]:,}"),
    ]
    advice = [
        f"    {next(kind for most, kind in _KINDS if found.pays[1] <= most)}",
        f"    assumed: alignment {ALIGNMENT[0]:g} to {ALIGNMENT[1]:g} of a patient's vector with the mean, and noise of"
        f" {NOISE_SHARE:g} of the mean's norm",
    ]
    warnings = [f"  warning: {text}" for text in found.warnings]
    return [*(f"  {name:<38}{value}" for name, value in rows), *advice, *warnings]


def masked_table(parameters: int, rounds: int, evaluations: int, ring_bits: int) -> list[str]:
    """Return what sums without noise cost, as lines for a person to read."""
    exchanges = exchanges_of(rounds) + (exchanges_of(evaluations) if evaluations else 0)
    low, high = (exchanges * seconds / 3600 for seconds in EXCHANGE_S)
    gigabytes = (rounds * (_VALUE_BYTES + ring_bits / 8) + evaluations * _VALUE_BYTES) * parameters / 1e9
    rows = [
        ("exchanges in a deployment", f"{exchanges:,}"),
        ("hours of exchanges, before training", f"{low:.1f} to {high:.1f}"),
        ("gigabytes at each site", f"{gigabytes:.2f}"),
    ]
    return [f"  {name:<38}{value}" for name, value in rows]
