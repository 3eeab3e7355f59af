"""A site's release: who takes part, what each adds, noise, ring. Training, tests and audits all use this code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from privacy.dp.encoding import Ring, add_fine_integers
from privacy.dp.noise import Integers, NoiseStream, integer_gaussian
from privacy.dp.terms import PrivacyTerms
from shared_model.core.errors import InputError

# Returns the vector (d,) of one unit (patient), of any norm. Called only if that patient takes part.
VectorOf = Callable[[int], NDArray[np.float32]]


def clipped_sum(units: int, size: int, vector_of: VectorOf, terms: PrivacyTerms, stream: NoiseStream) -> Integers:
    """Draw which of ``units`` take part; return the sum (``size``,) of their clipped vectors, fine grid, no noise."""
    total = np.zeros(size, dtype=np.int64)
    for unit in poisson_sample(units, terms.q, stream):
        add_fine_integers(total, vector_of(int(unit)), terms.clip, stream)
    return total


def release(total: Integers, terms: PrivacyTerms, stream: NoiseStream) -> Ring:
    """Add a site's share of the noise to its sum (d,) and encode it in the ring. It may leave once it is charged.

    Raises InputError when the run's releases hold too many numbers for the sampler (``Terms.check_size``).
    """
    terms.check_size(total.size)
    how = terms.encoding()
    return how.release(total, integer_gaussian(how.sigma_site, total.size, stream))


def poisson_sample(patients: int, q: float, stream: NoiseStream) -> NDArray[np.intp]:
    """Draw which of ``patients`` take part, each with probability q in (0, 1]. Returns sorted indices, maybe none.

    Sampling hides a patient because nobody can know whether they took part. So the coordinator must not learn the draw,
    and the randomness of ``stream`` comes from the operating system.

    An empty draw is a release like any other: its noise leaves and is charged. Raises InputError for any other q.
    """
    if not 0.0 < q <= 1.0:
        raise InputError(f"privacy.q={q:g}: expected a probability above 0, up to 1")
    if q == 1.0:
        return np.arange(patients)
    # Round q down to a multiple of 2^-64: nobody takes part with more probability than the accountant assumes.
    return np.flatnonzero(stream.uint64(patients) < np.uint64(int(q * 2**64)))
