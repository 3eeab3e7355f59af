"""Patients' clipped vectors as integers, rounding after noise, and sums modulo a power of two.

Order of a release, and why (proof: docs/privacy.md):

1. Clip each patient's vector to norm C and turn it into integers on a fine grid by stochastic rounding. On this grid C
   is ``FINE`` = 2^18 units. The integer norm is at most FINE, checked in integers.
2. Add the patients' integers, then add integer Gaussian noise on the same grid to the sum.
3. Only then coarsen the sum to every ``step``-th integer and reduce it modulo 2^bits. Rounding after noise is
   post-processing: it costs no privacy, whatever the number of coordinates.

Secure aggregation sums such vectors modulo 2^bits. Without it the coordinator sums the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy.dp.noise import Integers, NoiseStream
from shared_model.core.errors import InputError

FINE = 2**18
RINGS: tuple[int, ...] = (16, 32, 64)
RING_TYPES = {16: np.uint16, 32: np.uint32, 64: np.uint64}
# Least noise of a site, in coarse steps. Below it the proof has no room.
LEAST_SIGMA_STEPS = 4.0
# How many standard deviations of the sum's noise must fit in the ring beside the largest sum.
_ROOM_SIGMAS = 9.0

# Numbers per chunk: 256 KiB of float64 and its buffers stay in a core's second-level cache.
_CHUNK = 1 << 15
_LEVELS = 2.0**16  # values of the random number that rounding compares a fraction with

Number = TypeVar("Number", bound=np.generic)
Ring = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a release is encoded: ``sigma_site`` and ``step`` in fine units, a ring of 2^bits, ``clip`` in real units."""

    clip: float
    sigma_site: float
    step: int
    bits: int

    def release(self, total: Integers, noise: Integers) -> Ring:
        """Add a site's sum (d,) and noise (d,), both on the fine grid, and coarsen the result to ring numbers (d,)."""
        ring = np.empty(total.size, dtype=RING_TYPES[self.bits])
        for part, sums, noises in zip(_chunks(ring), _chunks(total), _chunks(noise), strict=True):
            part[:] = to_ring(coarsen(sums + noises, self.step), self.bits)
        return ring

    def decode(self, total: Ring) -> NDArray[np.float64]:
        """Convert a sum (d,) of releases modulo 2^bits to real units, float64."""
        return from_ring(total).astype(np.float64) * (self.step * self.clip / FINE)


def encoding(*, clip: float, sigma_site: float, cohort: int, sites: int, bits: int | None = None) -> Encoding:
    """Choose the ring and its step. ``bits`` names a ring; without it the smallest ring that fits is taken.

    ``sigma_site``: a site's noise in fine units; ``cohort``: the most vectors in one sum over all ``sites``. Raises
    InputError if no ring fits.
    """
    sigma_total = sigma_site * math.sqrt(sites)
    largest = cohort * FINE + _ROOM_SIGMAS * sigma_total
    for width in (bits,) if bits is not None else RINGS:
        if width not in RINGS:
            raise InputError(f"privacy.bits={width}: expected one of {', '.join(map(str, RINGS))}")
        room = 2 ** (width - 1) - sites / 2
        if room <= 0:
            continue
        # (cohort * FINE + 9 sigma_total) / step + sites / 2 < 2^(bits - 1), for an odd step (see ``coarsen``).
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


def euclidean_norm(vector: NDArray[np.float32]) -> float:
    """Return the norm of a vector (d,) float32, summed in float64. It is finite if and only if every number is."""
    buffer, squared = np.empty(_CHUNK), 0.0
    for part in _chunks(vector):
        real = buffer[: part.size]
        real[:] = part
        squared += float(np.dot(real, real))
    return math.sqrt(squared)


def fine_integers(vector: NDArray[np.float32], clip: float, stream: NoiseStream) -> Integers:
    """Write one patient's vector (d,) on the fine grid, (d,) int64: ``add_fine_integers`` with a total of zeros."""
    total = np.zeros(vector.size, dtype=np.int64)
    add_fine_integers(total, vector, clip, stream)
    return total


def add_fine_integers(total: Integers, vector: NDArray[np.float32], clip: float, stream: NoiseStream) -> None:
    """Clip one patient's vector (d,) to norm ``clip`` and add it to ``total`` (d,) on the fine grid.

    Each number is rounded at random; its mean is right to 2^-16 of a unit. The Euclidean norm of what is added is at
    most FINE, counted in exact integers: a chunk that would break this limit is left out. To avoid that, vectors at
    the limit are shortened first, by less than 1e-4 up to 40 million numbers (``_room``). A vector that is not finite
    adds nothing. All passes over a chunk follow one another, so the chunk stays in the cache.
    """
    norm = euclidean_norm(vector)
    if not 0.0 < norm < math.inf:
        return
    scale = min(FINE / clip, _room(vector.size) / norm)
    buffer, integers = np.empty(_CHUNK), np.empty(_CHUNK, dtype=np.int64)
    allowed = FINE**2
    for part, sums in zip(_chunks(vector), _chunks(total), strict=True):
        real, whole = buffer[: part.size], integers[: part.size]
        np.multiply(part, scale * _LEVELS, out=real, dtype=np.float64)
        real += stream.uint16(part.size)
        real *= 1.0 / _LEVELS
        np.floor(real, out=real)
        whole[:] = real
        # Exact: of 2^15 integers up to 2^19, every partial sum is an integer that float64 holds.
        squared = int(np.dot(real, real))
        if squared <= allowed:
            allowed -= squared
            sums += whole


def _room(size: int) -> float:
    """Return the norm on the fine grid to which a vector (size,) is clipped, so that it stays within FINE once rounded.

    Rounding adds at most 1/4 per coordinate to the expected squared norm, with a standard deviation of at most FINE.
    There is room for six deviations. So about one patient in 10^8 loses a chunk, which costs accuracy, not privacy.
    """
    return math.sqrt(max(FINE**2 - size / 4.0 - 6.0 * FINE, 0.0))


def _chunks(vector: NDArray[Number]) -> Iterator[NDArray[Number]]:
    return (vector[start : start + _CHUNK] for start in range(0, vector.size, _CHUNK))


def coarsen(values: Integers, step: int) -> Integers:
    """Round integers to multiples of an odd ``step``, and count in steps.

    With an odd step no integer lies on the border of two cells. So rounding a continuous value first to an integer and
    then to the step gives the same as rounding it to the step at once. The proof needs this.
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
    """Add ring numbers in place, modulo 2^bits. The order of the additions does not matter."""
    np.add(total, values, out=total)
