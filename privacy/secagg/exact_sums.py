"""Sums without noise of their own: fixed-point numbers under masks, with their weight and the means that travel along.

A site's update is shortened to the norm bound, multiplied by the site's weight, and written in whole steps of a public
size. The weight follows, and then each mean (loss, scores) with its own weight. So the coordinator learns the weighted
sums and the weight of all, and no site's update, weight, loss or score. That is not patient privacy: the sum itself is
exact (docs/privacy.md). Mode local puts its noised updates into sums of this kind as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privacy.dp.encoding import RING_TYPES, Ring, euclidean_norm, from_ring
from privacy.dp.public_terms import PublicTerms
from shared_model.core.fields import MessageError, OneOf, Real, Rule, Whole, check_fields
from shared_model.core.vector import Vector

# The 32-bit ring is taken where every number of the mean is right to this; else the ring of 64 bits.
FINE_ENOUGH = 1e-6
_FINEST_STEP = 2.0**-32  # the step of mode none (server/strategy/update_sum.py)
_CHUNK = 1 << 15

# A mean and a weight are whole numbers of up to 2^65, written as signed digits that a ring of 32 bits can add up.
_DIGIT_BITS, _DIGITS = 20, 4
_MEAN_STEP = 2.0**-20
_MOST_MEAN = 2.0**20


@dataclass(frozen=True, kw_only=True)
class MaskTerms(PublicTerms):
    """Public terms of exact sums. Raises MessageError ("bad_task") on a value out of range, or if no ring fits.

    ``sites``: N of the roster; ``survivors``: m, fewest sites in a sum; ``colluders``: t; ``cohort``: patients that all
    sites declared; ``weighting``: a site weighs as many as its patients, or one ("equal"); ``bound``: largest norm of
    an update; ``bits``: bits of the ring, 0: 32 if that is fine enough.
    """

    what: ClassVar[str] = "mask terms"
    sites: int
    survivors: int
    colluders: int
    cohort: int
    weighting: str
    bound: float
    bits: int = 0

    RULES: ClassVar[Mapping[str, Rule]] = {
        "sites": Whole(1, 10_000),
        "survivors": Whole(1, 10_000),
        "colluders": Whole(1, 10_000),
        "cohort": Whole(1, 10_000_000),
        "weighting": OneOf(("patients", "equal")),
        "bound": Real(0.0, 1e12, above=True),
        "bits": Whole(0, 64),
    }

    def __post_init__(self) -> None:
        check_fields(self, "mask terms", self.RULES)
        if not self.colluders < self.survivors <= self.sites:
            raise MessageError(
                "bad_task",
                f"mask terms: {self.sites} sites, at least {self.survivors} in a sum, {self.colluders} colluders:"
                " expected colluders < survivors <= sites",
            )
        if self.bits not in (0, 32, 64):
            raise MessageError("bad_task", f"privacy.bits={self.bits}: a sum without noise takes 32 or 64, or 0")
        if self.most_weight > 1 << (_DIGIT_BITS + 4):
            raise MessageError("bad_task", "mask terms: too many patients")

    @property
    def most_weight(self) -> int:
        """Largest weight of a sum."""
        return self.cohort if self.weighting == "patients" else self.sites

    @property
    def ring_bits(self) -> int:
        """Bits of the ring."""
        if self.bits:
            return self.bits
        return 32 if self._error(32) <= FINE_ENOUGH else 64

    @property
    def step(self) -> float:
        """Step of the fixed-point numbers, a power of two, before the division by the weight."""
        return self._step(self.ring_bits)

    @property
    def error(self) -> float:
        """Most by which rounding can move a number of the mean over the whole cohort."""
        return self._error(self.ring_bits)

    def _step(self, bits: int) -> float:
        # The ring check: no sum of honest numbers wraps. weight x bound / step + sites / 2 < 2^(bits - 1)
        room = 2.0 ** (bits - 1) - self.sites / 2 - 1
        return float(max(2.0 ** math.ceil(math.log2(self.most_weight * self.bound / room)), _FINEST_STEP))

    def _error(self, bits: int) -> float:
        return self.sites * self._step(bits) / (2 * self.most_weight)

    def weight(self, patients: int) -> int:
        """Return the weight of a site with so many patients."""
        return patients if self.weighting == "patients" else 1

    def length(self, size: int, names: Sequence[str]) -> int:
        """Return how many ring numbers carry an update of ``size`` numbers, its weight and the named means."""
        return size + _DIGITS * (1 + 2 * len(names))

    def encode(self, update: Vector, patients: int, means: Mapping[str, float], names: Sequence[str]) -> Ring:
        """Write a site's update (d,), maybe of no numbers, its weight and its means as ring numbers.

        A mean that is not there, or not finite, has weight 0. MessageError for an update that is not finite.
        """
        norm, weight = euclidean_norm(update), self.weight(patients)
        if not math.isfinite(norm):
            raise MessageError("not_finite", "reply: the update holds values that are not finite")
        scale = weight * min(1.0, self.bound / norm if norm else 1.0) / self.step
        ring = np.empty(self.length(update.size, names), dtype=RING_TYPES[self.ring_bits])
        real = np.empty(_CHUNK)
        for start in range(0, update.size, _CHUNK):
            part = update[start : start + _CHUNK]
            scaled = real[: part.size]
            np.multiply(part, scale, out=scaled, dtype=np.float64)
            np.rint(scaled, out=scaled)
            ring[start : start + part.size] = scaled.astype(np.int64).view(np.uint64)
        words = [weight]
        for name in names:
            value = means.get(name, math.nan)
            there = weight if math.isfinite(value) else 0
            words += [there, round(max(-_MOST_MEAN, min(value, _MOST_MEAN)) / _MEAN_STEP) * there if there else 0]
        tail = np.array([digit for word in words for digit in _to_digits(word)], dtype=np.int64)
        ring[update.size :] = tail.view(np.uint64)
        return ring

    def decode(self, total: Ring, size: int, names: Sequence[str]) -> ExactSum:
        """Read a sum of what ``encode`` wrote; MessageError for another length or ring."""
        if total.shape != (self.length(size, names),) or total.dtype != np.dtype(RING_TYPES[self.ring_bits]):
            raise MessageError("schema", f"masked sum: expected {size} numbers and {len(names)} means")
        tail = [int(digit) for digit in from_ring(total[size:])]
        words = [_from_digits(tail[at : at + _DIGITS]) for at in range(0, len(tail), _DIGITS)]
        means = {
            name: words[2 * i + 2] * _MEAN_STEP / words[2 * i + 1] for i, name in enumerate(names) if words[2 * i + 1]
        }
        return ExactSum(weighted=from_ring(total[:size]).astype(np.float64) * self.step, weight=words[0], means=means)


@dataclass(frozen=True, kw_only=True)
class ExactSum:
    """A decoded sum: ``weighted`` sum of updates (d,) float64, the ``weight`` of all sites, and the named ``means``."""

    weighted: NDArray[np.float64]
    weight: int
    means: Mapping[str, float]


def _to_digits(value: int) -> list[int]:
    """Write a whole number as digits, the lowest first; the highest one carries the sign."""
    digits = [(value >> (_DIGIT_BITS * place)) & ((1 << _DIGIT_BITS) - 1) for place in range(_DIGITS - 1)]
    return [*digits, value >> (_DIGIT_BITS * (_DIGITS - 1))]


def _from_digits(digits: Sequence[int]) -> int:
    """Read a sum of numbers from the sums of their digits."""
    return sum(digit << (_DIGIT_BITS * place) for place, digit in enumerate(digits))
