"""Patients' clipped vectors as integers, rounding after noise, and sums modulo a power of two.

Order of a release, and why (proof: docs/privacy.md):

1. each patient's vector becomes integers on a fine grid, where the clipping norm C is ``FINE`` = 2^18 units, by
   stochastic rounding; its integer norm is at most FINE, checked in integers;
2. the patients' integers are added, and integer Gaussian noise on the same grid to the sum;
3. only then the sum is coarsened to every ``step``-th integer and reduced modulo 2^bits: rounding after noise is
   post-processing and costs no privacy, whatever the number of coordinates.

Sums of such vectors modulo 2^bits are what secure aggregation adds; without it the coordinator adds the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.noise import Integers, NoiseStream
from shared_model.errors import InputError

FINE = 2**18
RINGS: tuple[int, ...] = (16, 32, 64)
RING_TYPES = {16: np.uint16, 32: np.uint32, 64: np.uint64}
# Noise of a site in coarse steps, at least; below it the proof has no room.
LEAST_SIGMA_STEPS = 4.0
# Standard deviations of the sum's noise that must fit beside the largest sum.
_ROOM_SIGMAS = 9.0

Ring = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a release is written: ``sigma_site`` and ``step`` in fine units, ring of 2^bits; ``clip`` in real units."""

    clip: float
    sigma_site: float
    step: int
    bits: int

    def release(self, total: Integers, noise: Integers) -> Ring:
        """Coarsen a site's sum (d,) and noise (d,) on the fine grid to the ring."""
        return to_ring(coarsened(total + noise, self.step), self.bits)

    def decode(self, total: Ring) -> NDArray[np.float64]:
        """Read a sum (d,) of releases modulo 2^bits in real units, float64."""
        return from_ring(total).astype(np.float64) * (self.step * self.clip / FINE)


def encoding(*, clip: float, sigma_site: float, cohort: int, sites: int, bits: int | None = None) -> Encoding:
    """Choose the ring's step, and the smallest ring that fits unless ``bits`` names one; InputError if none does.

    ``sigma_site``: a site's noise in fine units; ``cohort``: most vectors in one sum over all ``sites``.
    """
    sigma_total = sigma_site * math.sqrt(sites)
    largest = cohort * FINE + _ROOM_SIGMAS * sigma_total
    for width in (bits,) if bits is not None else RINGS:
        if width not in RINGS:
            raise InputError(f"privacy.bits={width}: expected one of {', '.join(map(str, RINGS))}")
        room = 2 ** (width - 1) - sites / 2
        if room <= 0:
            continue
        # (cohort * FINE + 9 sigma_total) / step + sites / 2 < 2^(bits - 1), for an odd step (see ``coarsened``).
        step = math.floor(largest / room) + 1
        step += 1 - step % 2
        if step * LEAST_SIGMA_STEPS <= sigma_site:
            return Encoding(clip=clip, sigma_site=sigma_site, step=step, bits=width)
    asked = f"{bits} bits" if bits is not None else "64 bits"
    raise InputError(
        f"privacy: {cohort} patients at {sites} sites do not fit a ring of {asked}: ({cohort} x {FINE} + 9 x"
        f" {sigma_total:.0f}) / step + {sites} / 2 < 2^(bits - 1) needs a step above"
        f" {sigma_site / LEAST_SIGMA_STEPS:.0f}, a quarter of a site's noise; raise privacy.bits or z"
    )


def fine_integers(vector: NDArray[np.float32], clip: float, stream: NoiseStream) -> Integers:
    """Write one patient's vector (d,) on the fine grid: integers of Euclidean norm at most FINE, unbiased but for that.

    ``vector`` should have norm at most ``clip``; whatever it is, the result's norm is held in exact integers. A vector
    that is not finite becomes zero.
    """
    if not np.isfinite(vector).all():
        return np.zeros(vector.size, dtype=np.int64)
    scale = FINE / clip
    norm = float(np.linalg.norm(vector.astype(np.float64))) * scale
    # Stochastic rounding adds up to d/4 to the squared norm: room for it is made first, for vectors at the limit alone.
    room = math.sqrt(max(FINE**2 - vector.size / 4.0 - 4.0 * FINE, 0.0))
    if norm > room:
        scale *= room / norm
    scaled = vector.astype(np.float64) * scale
    whole = _rounded_at_random(scaled, stream)
    if _squared_norm(whole) <= FINE**2:
        return whole
    # Toward zero no coordinate grows. The loop ends: floating point may err by a few units in 2^18 at most.
    while True:
        whole = np.trunc(scaled).astype(np.int64)
        if _squared_norm(whole) <= FINE**2:
            return whole
        scaled *= 1.0 - 2.0**-20


def _rounded_at_random(scaled: NDArray[np.float64], stream: NoiseStream) -> Integers:
    lower = np.floor(scaled)
    up = (scaled - lower) * 65536.0 > stream.uint16(scaled.size)
    return lower.astype(np.int64) + up


def _squared_norm(whole: Integers) -> int:
    # |coordinate| <= 2^19 here, so that the dot product of fewer than 2^25 coordinates cannot overflow int64.
    return int(sum(int(np.dot(part, part)) for part in np.array_split(whole, max(1, whole.size >> 22))))


def coarsened(values: Integers, step: int) -> Integers:
    """Round to multiples of an odd ``step``, and count in steps.

    Odd, because then no integer lies on the border of two cells: rounding a continuous value to an integer first and
    to the step after that is the same as rounding it to the step at once, which the proof needs.
    """
    if step < 1 or step % 2 == 0:
        raise ValueError(f"step {step}: expected an odd number")
    return values if step == 1 else (values + step // 2) // step


def to_ring(values: Integers, bits: int) -> Ring:
    """Reduce integers modulo 2^bits."""
    ring: Ring = values.astype(RING_TYPES[bits])
    return ring


def from_ring(values: Ring) -> Integers:
    """Read ring numbers as signed integers in [-2^(bits-1), 2^(bits-1))."""
    return values.view(np.dtype(f"i{values.dtype.itemsize}")).astype(np.int64)


def add_to(total: Ring, values: Ring) -> None:
    """Add ring numbers in place, modulo 2^bits; the order of the additions does not matter."""
    np.add(total, values, out=total)
