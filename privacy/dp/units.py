"""The unit of privacy is the patient. This module secretly draws which patients take part in a release.

Poisson sampling: each patient takes part with probability q, independently of the others. Sampling hides a patient
because nobody can know whether they took part. So the coordinator must not learn the draw, and the randomness comes
from the operating system.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.dp.noise import NoiseStream
from shared_model.core.errors import InputError


def poisson_sample(patients: int, q: float, stream: NoiseStream) -> NDArray[np.intp]:
    """Draw which of ``patients`` take part, each with probability q in (0, 1]. Returns sorted indices, maybe none.

    An empty draw is a release like any other: its noise leaves and is charged. Raises InputError for any other q.
    """
    if not 0.0 < q <= 1.0:
        raise InputError(f"privacy.q={q:g}: expected a probability above 0, up to 1")
    if q == 1.0:
        return np.arange(patients)
    # Round q down to a multiple of 2^-64: nobody takes part with more probability than the accountant assumes.
    return np.flatnonzero(stream.uint64(patients) < np.uint64(int(q * 2**64)))
