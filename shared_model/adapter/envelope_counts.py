"""One patient as histogram counts, and an adapter's ranges from the noised counts of many patients.

The layout is public (count_layout.py). Nothing here knows of noise but its standard deviation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shared_model.adapter.count_layout import BINS, EDGES, ORGAN_WEIGHT, SIZE
from shared_model.adapter.envelope import MEASURES, Envelope, organs_of
from shared_model.core.vector import Vector
from shared_model.patient.anatomy import ORGANS
from shared_model.patient.case import Case

# How many standard deviations of its noise a sum of counts must exceed: about 300 sums are tried for each end.
_CERTAIN = 3.25
# The share of patients that may lie beyond either end of a range.
_TAIL = 0.01


def case_counts(case: Case) -> Vector | None:
    """Return what a case counts, (SIZE,) float32 of norm NORM at most; None for one without a target."""
    if not case.targets:
        return None
    counts = np.zeros(SIZE, np.float32)
    for block, (key, (of, _)) in enumerate(MEASURES.items()):
        inner = _edges(key)[1:-1]
        counts[BINS * block + int(np.searchsorted(inner, of(case), side="right"))] = 1.0
    here = organs_of(case)
    start = BINS * len(MEASURES)
    counts[start + len(here)] = 1.0
    for name in here:
        counts[start + len(ORGANS) + 1 + ORGANS.index(name)] = ORGAN_WEIGHT
    return counts


def noised_envelope(counts: NDArray[np.float64], noise_sd: float, patients: int) -> Envelope:
    """Read the ranges of ``patients`` declared patients from their noised ``counts`` (SIZE,).

    ``noise_sd``: standard deviation of the noise in each count. Beyond a range no stretch of bins holds more than 1%
    of the patients and what noise can make. Under noise it is one bin wider on either side, for the few patients whom
    noise hides there. A measure of which the noise leaves nothing has no range.
    """
    ranges = {}
    for block, key in enumerate(MEASURES):
        found = _ends(counts[BINS * block : BINS * (block + 1)], noise_sd, patients)
        if found is not None:
            edges = _edges(key)
            ranges[key] = (float(f"{edges[found[0]]:.4g}"), float(f"{edges[found[1] + 1]:.4g}"))
    start = BINS * len(MEASURES)
    numbers = _ends(counts[start : start + len(ORGANS) + 1], noise_sd, patients)
    there = counts[start + len(ORGANS) + 1 :] > max(_CERTAIN * noise_sd, _TAIL * patients * ORGAN_WEIGHT)
    return Envelope(
        patients=patients,
        organs=tuple(sorted(name for name, seen in zip(ORGANS, there, strict=True) if seen)),
        least_organs=0 if numbers is None else numbers[0],
        ranges=ranges,
    )


def _edges(key: str) -> NDArray[np.float64]:
    low, high = EDGES[key]
    return np.geomspace(low, high, BINS + 1)


def _ends(counts: NDArray[np.float64], noise_sd: float, patients: int) -> tuple[int, int] | None:
    """Return the first and the last bin of a range; None where the noise covers all."""
    low, high = (_first(side, noise_sd, patients) for side in (counts, counts[::-1]))
    if low is None or high is None or low > counts.size - 1 - high:
        return None
    wider = 1 if noise_sd else 0
    return max(0, low - wider), min(counts.size - 1, counts.size - 1 - high + wider)


def _first(counts: NDArray[np.float64], noise_sd: float, patients: int) -> int | None:
    """Return the bin in which a range begins: None where all may be noise.

    Of the stretches of bins that hold more patients than the tail may hold and noise can make, the one that ends first
    counts, and of those the shortest: patients are in it, so the range begins with it.
    """
    for end in range(1, counts.size + 1):
        for length in range(1, end + 1):
            allowed = _TAIL * patients + _CERTAIN * noise_sd * math.sqrt(length)
            if counts[end - length : end].sum() > allowed:
                return end - length
    return None
