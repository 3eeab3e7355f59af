"""Empirical epsilon from two worlds that differ in one patient: a threshold test, with exact confidence bounds.

The auditor runs the same computation many times with and many times without the patient, and says "with" where a
statistic of what was seen is above a threshold that was fixed beforehand. Under (epsilon, delta) the share of right
answers TPR and of wrong alarms FPR obey TPR <= exp(epsilon) FPR + delta, and so do their complements with the worlds
exchanged. Clopper and Pearson's bounds (doi 10.1093/biomet/26.4.404) on both shares make that a lower bound of epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def epsilon_at_least(
    present: Sequence[float], absent: Sequence[float], threshold: float, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Return what epsilon is at least, with ``confidence``; 0 where the trials show nothing.

    ``present``, ``absent``: the statistic of each trial with the patient and without. ``threshold`` must not depend on
    them. The error is shared among four bounds, since the better one of two tests is taken.
    """
    chance = (1.0 - confidence) / 4
    hits, alarms = sum(x > threshold for x in present), sum(x > threshold for x in absent)
    right, wrong = len(present), len(absent)
    tests = (
        (_low(hits, right, chance), _high(alarms, wrong, chance)),
        (_low(wrong - alarms, wrong, chance), _high(right - hits, right, chance)),
    )
    return max([0.0, *(math.log((seen - delta) / mistaken) for seen, mistaken in tests if seen > delta)])


def _low(count: int, trials: int, chance: float) -> float:
    from scipy.stats import beta

    return 0.0 if count == 0 else float(beta.ppf(chance, count, trials - count + 1))


def _high(count: int, trials: int, chance: float) -> float:
    from scipy.stats import beta

    return 1.0 if count == trials else float(beta.ppf(1.0 - chance, count + 1, trials - count))
