"""What releases cost: (epsilon, delta) of Poisson-subsampled Gaussian mechanisms, add/remove one patient.

Privacy loss distributions (dp-accounting; Koskela et al. 2020, Doroshenko et al. 2022) give the figures. The figures
are upper bounds. The PRV accountant of Opacus (Gopi et al. 2021, arXiv:2106.02848) cross-checks every plan. Releases
with q = 1 are plain Gaussians: n of them at z equal one at z / sqrt(n), exactly. Each library is imported on first use.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from shared_model.core.errors import FedKT3DError

# (z, q) -> how many releases.
Profile = Mapping[tuple[float, float], int]
_Key = tuple[tuple[tuple[float, float], int], ...]

# Above this epsilon the distribution would be a huge table, and the budget is lost anyway: use the looser RDP bound.
_HOPELESS = 100.0
_LARGE = 20.0
_GRID = 1e-4
_LEAST_Z, _MOST_Z = 0.1, 10_000.0
_TOLERANCE = 0.01  # of two accountants' epsilons


class AccountantError(FedKT3DError):
    """Two independent accountants found different epsilons for the same releases: neither can be trusted."""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """``count`` releases of the sampled Gaussian mechanism: noise over clipping norm ``z``, sampling rate ``q``.

    ``z_alone``: the noise that remains when everyone else colludes.
    """

    z: float
    z_alone: float
    q: float
    count: int = 1


def profile(charges: Iterable[Charge], *, alone: bool = False) -> Profile:
    """Count releases by mechanism. ``alone``: count them against everyone else together."""
    counts: Counter[tuple[float, float]] = Counter()
    for charge in charges:
        counts[(charge.z_alone if alone else charge.z, charge.q)] += charge.count
    return counts


def epsilon(spent: Profile, delta: float) -> float:
    """Return an upper bound of epsilon at ``delta`` for all releases in ``spent`` together; 0 for no release."""
    merged = _merge(spent)
    if not merged:
        return 0.0
    rdp = _rdp(merged, delta)
    return rdp if rdp > _HOPELESS else _pld(merged, delta)


def adaptive_epsilon(spent: Profile, delta: float) -> float:
    """Return an epsilon that also holds where later terms were chosen after earlier releases had been seen.

    Releases with q = 1 are Gaussians, whose precisions add up whoever chooses them (Smith and Thakurta 2022, fully
    adaptive composition of Gaussian differential privacy). One mechanism alone leaves nothing to choose. Several
    mechanisms with sampling are counted in Renyi differential privacy, which is a filter (Feldman and Zrnic 2021,
    arXiv:2008.11193; Lecuyer 2021, arXiv:2103.01379).
    """
    merged = _merge(spent)
    return epsilon(spent, delta) if len(merged) < 2 else _rdp(merged, delta)


def epsilon_prv(spent: Profile, delta: float, error: float = 0.01) -> float:
    """Return the same by Opacus' PRV accountant: an upper bound, at most ``error`` above the true epsilon.

    Opacus imports torch, which takes seconds: only what plans a federation asks for this.
    """
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(z, q, count) for (z, q), count in _merge(spent)]
    return float(accountant.get_epsilon(delta, eps_error=error)) if accountant.history else 0.0


def checked_epsilon(spent: Profile, delta: float) -> float:
    """Return ``epsilon``, once Opacus' accountant has found the same within 1%; AccountantError where it has not.

    An epsilon above 100 comes from a looser bound, which cannot be compared and promises nothing: it is not checked.
    """
    ours = epsilon(spent, delta)
    if not 0.0 < ours <= _HOPELESS:
        return ours
    other = epsilon_prv(spent, delta, error=ours * _TOLERANCE / 5)
    if not abs(other - ours) <= _TOLERANCE * ours:  # also where one of them is no number
        raise AccountantError(
            f"epsilon at delta {delta:g}: two accountants disagree, {ours:.4g} (dp-accounting), {other:.4g} (Opacus);"
            " no plan is made with such terms: report this, with the terms"
        )
    return ours


@lru_cache(maxsize=256)
def noise_multiplier(target: float, delta: float, q: float, steps: int, besides: float = 0.0) -> float:
    """Return the least z at which ``steps`` releases cost at most ``target``, to four digits and rounded up.

    It is never below 0.1, the least z that the terms of a run allow. ``besides``: the z of one more release, of
    everybody, that ``target`` pays for too, counted as ledgers do (``adaptive_epsilon``); it alone must cost less.
    """

    def spent(z: float) -> Profile:
        return profile([Charge(z=z, z_alone=z, q=q, count=steps), *first])

    first = [Charge(z=besides, z_alone=besides, q=1.0)] if besides else []
    cost = adaptive_epsilon if besides else epsilon
    # The RDP bound is quick, and its z is always enough. The tighter figure needs up to a third less. At little noise
    # the two nearly agree, and the search may stop one part in 5,000 beside the crossing.
    enough = 1.001 * _crossing(lambda z: _rdp(_merge(spent(z)), delta), target, _LEAST_Z, _MOST_Z)
    z = _crossing(lambda z: cost(spent(z), delta), target, max(_LEAST_Z, 0.6 * enough), enough)
    if z == _LEAST_Z:
        return z
    grain = 10.0 ** (math.floor(math.log10(z)) - 3)
    z = math.ceil(z / grain) * grain
    while cost(spent(z), delta) > target:
        z += grain
    return float(f"{z:.6g}")


def _crossing(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return the z in [low, high] at which the falling ``cost`` reaches ``target``; ``low`` if that is cheap enough."""

    from scipy.optimize import brentq

    def excess(log_z: float) -> float:
        return math.log(cost(math.exp(log_z)) / target)

    if excess(math.log(low)) <= 0.0:
        return low
    return math.exp(float(brentq(excess, math.log(low), math.log(high), xtol=2e-4)))


class Budget:
    """A limit on epsilon that is checked again and again while a profile grows.

    A profile below one that was within the limit is within it too. So ``allows`` takes about half a second for a
    profile beyond all earlier ones, and no time otherwise.
    """

    def __init__(self, limit: float, delta: float) -> None:
        self._limit, self._delta = limit, delta
        self._within: list[Profile] = []

    def allows(self, spent: Profile) -> bool:
        """Return whether ``spent`` costs at most the limit."""
        if any(_is_below(spent, known) for known in self._within):
            return True
        if adaptive_epsilon(spent, self._delta) > self._limit:
            return False
        self._within = [known for known in self._within if not _is_below(known, spent)] + [dict(spent)]
        return True


@lru_cache(maxsize=32)
def budget(limit: float, delta: float) -> Budget:
    """Return this process's one Budget with this limit."""
    return Budget(limit, delta)


def _is_below(small: Profile, large: Profile) -> bool:
    return all(count <= large.get(key, 0) for key, count in small.items())


def _merge(spent: Profile) -> _Key:
    """Merge all releases with q = 1 into one Gaussian. Sort, so that equal profiles have equal keys."""
    precision = sum(count / z**2 for (z, q), count in spent.items() if q == 1.0)
    rest = [(key, count) for key, count in spent.items() if key[1] != 1.0 and count]
    if precision:
        rest.append(((1.0 / math.sqrt(precision), 1.0), 1))
    return tuple(sorted(rest))


@lru_cache(maxsize=1024)
def _pld(merged: _Key, delta: float) -> float:
    from dp_accounting.pld import PLDAccountant

    # Fit the grid to the expected losses: large losses on the fine grid would take minutes and change no digit shown.
    interval = _GRID if _rdp(merged, delta) < _LARGE else 10 * _GRID
    return _compose(PLDAccountant(value_discretization_interval=interval), merged, delta)


@lru_cache(maxsize=1024)
def _rdp(merged: _Key, delta: float) -> float:
    from dp_accounting.rdp import RdpAccountant

    return _compose(RdpAccountant(), merged, delta)


def _compose(accountant: object, merged: _Key, delta: float) -> float:
    import dp_accounting as dp

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns about RDP orders that do not matter here
    account: dp.PrivacyAccountant = accountant
    for (z, q), count in merged:
        event = dp.GaussianDpEvent(z)
        if q < 1.0:
            event = dp.PoissonSampledDpEvent(q, event)
        account.compose(dp.SelfComposedDpEvent(event, count))
    return float(account.get_epsilon(delta))
