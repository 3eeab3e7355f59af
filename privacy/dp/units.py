"""The unit of privacy is the patient: who takes part in a release is drawn here, in secret.

Poisson sampling: every patient by himself with probability q. The draw must not be known to the coordinator, or it
hides nobody (the gain of sampling is the doubt whether a patient took part), so it comes from the operating system.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.dp.noise import NoiseStream
from shared_model.core.errors import InputError


def poisson_sample(patients: int, q: float, stream: NoiseStream) -> NDArray[np.intp]:
    """Draw which of ``patients`` take part, each with probability q in (0, 1]; sorted indices, perhaps none.

    An empty draw is a release like any other: its noise leaves and is charged. Raises InputError for another q.
    """
    if not 0.0 < q <= 1.0:
        raise InputError(f"privacy.q={q:g}: expected a probability above 0, up to 1")
    if q == 1.0:
        return np.arange(patients)
    # Down to the next multiple of 2^-64: never more likely than accounted for.
    return np.flatnonzero(stream.uint64(patients) < np.uint64(int(q * 2**64)))
