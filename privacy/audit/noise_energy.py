"""Noise energy: does a sum of empty releases hold as much noise as its terms promise?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from privacy.dp.encoding import Ring, add_to, from_ring
from privacy.dp.noise import Integers, NoiseStream
from privacy.dp.release import release
from privacy.dp.terms import PrivacyTerms


@dataclass(frozen=True, kw_only=True)
class NoiseEnergy:
    """``ratio``: measured variance over promised variance; ``score``: its distance from 1 in standard errors."""

    ratio: float
    score: float

    @property
    def missing(self) -> bool:
        """Whether noise is missing. Honest noise looks like that with a chance of 10^-9."""
        return self.score < -6.0


def noise_energy(total: Ring, terms: PrivacyTerms, sites: int) -> NoiseEnergy:
    """Judge the sum (d,) of ``sites`` releases of zero vectors."""
    how = terms.encoding()
    # Noise of each site, rounded to the fine grid and then to the coarse step.
    promised = sites * (how.sigma_site**2 / how.step**2 + 1.0 / 12.0)
    values = from_ring(total).astype(np.float64)
    ratio = float(np.dot(values, values)) / (promised * values.size)
    return NoiseEnergy(ratio=ratio, score=(ratio - 1.0) * math.sqrt(values.size / 2.0))


def null_round(terms: PrivacyTerms, sites: int, size: int, silent: int = 0) -> Ring:
    """Sum the releases of ``sites`` sites without patients. ``silent`` of these sites are broken and add no noise."""
    nothing: Integers = np.zeros(size, dtype=np.int64)
    total = release(nothing, terms, NoiseStream())
    how = terms.encoding()
    for site in range(1, sites):
        honest = site < sites - silent
        add_to(total, release(nothing, terms, NoiseStream()) if honest else how.release(nothing, nothing))
    return total
