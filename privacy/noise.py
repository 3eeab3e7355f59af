"""Integer Gaussian noise from the operating system's randomness; no seed of a configuration can reach it.

The rounded Gaussian RG(s) has P(k) = Phi((k + 1/2) / s) - Phi((k - 1/2) / s) on the integers: what is left of a
continuous Gaussian after rounding, so that whatever holds for the Gaussian mechanism holds for it (docs/privacy.md).
Probabilities are computed to 160 bits and drawn by Walker's alias method (1977) with thresholds of 64 bits; a large
sigma is a sum of rounded Gaussians on coarser and coarser lattices. ``SAMPLER_TV`` bounds how far one number drawn here
may be from the exact distribution.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache

import mpmath
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from shared_model.errors import InputError

Integers = NDArray[np.int64]

# Total variation of one number: at most six levels, each 2^-65 from thresholds and 2e-23 from tails beyond 10 sigma.
SAMPLER_TV = 2.0**-62
LARGEST_SIGMA = 2.0**40
_TABLE_SIGMA = 160.0  # up to here one table; its alias columns are numbered by 16 bits
_BASE_SIGMA = 128.0  # of a level, in units of its own lattice
_SMOOTHING = 4.0  # sigma of the finer levels, in units of the coarser lattice
_TAIL_SIGMAS = 10
_CHUNK = 1 << 16


class NoiseStream:
    """Uniform random bits: AES-256 in counter mode, keyed by 32 bytes of os.urandom that nothing else ever sees.

    Make one for each release, in the process that uses it: a process forked from another would repeat its stream.
    """

    def __init__(self) -> None:
        self._cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self._owner = os.getpid()

    def uint64(self, size: int) -> NDArray[np.uint64]:
        """Draw ``size`` uniform 64-bit words."""
        return np.frombuffer(self._bytes(8 * size), dtype=np.uint64)

    def uint16(self, size: int) -> NDArray[np.uint16]:
        """Draw ``size`` uniform 16-bit words."""
        return np.frombuffer(self._bytes(2 * size), dtype=np.uint16)

    def _bytes(self, count: int) -> bytes:
        if os.getpid() != self._owner:
            raise RuntimeError("noise stream: used in a forked process, which would repeat the noise of its parent")
        return self._cipher.update(bytes(count))


def integer_gaussian(sigma: float, size: int, stream: NoiseStream) -> Integers:
    """Draw ``size`` independent rounded Gaussians of standard deviation ``sigma`` >= 1, (size,) int64.

    The variance is sigma^2 and up to 1/12 of the squared coarsest lattice: never less than that of the Gaussian.
    Raises InputError for a sigma outside 1 to 2^40.
    """
    if not 1.0 <= sigma <= LARGEST_SIGMA:
        raise InputError(f"noise: sigma {sigma:g} of the integer grid; expected 1 to 2^40")
    levels = [(shift, _alias_table(part)) for shift, part in _levels(sigma)]
    out = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        part[:] = 0
        for shift, table in levels:
            part += table.draw(part.size, stream) << shift
    return out


def _levels(sigma: float) -> Sequence[tuple[int, float]]:
    """(k, s) of each level: the noise is the sum of 2^k RG(s), coarsest first; their variances add up to sigma^2."""
    if sigma <= _TABLE_SIGMA:
        return [(0, float(sigma))]
    shift = max(1, math.ceil(math.log2(sigma / _BASE_SIGMA)))
    finer = _SMOOTHING * 2**shift
    return [(shift, math.sqrt(sigma * sigma - finer * finer) / 2**shift), *_levels(finer)]


class _AliasTable:
    """Walker's alias method over -K..K with 2^n columns: column by 16 random bits, column or alias by 64."""

    def __init__(self, thresholds: NDArray[np.uint64], aliases: NDArray[np.int64], centre: int) -> None:
        self._thresholds, self._aliases, self._centre = thresholds, aliases, centre
        self._mask = np.uint16(thresholds.size - 1)

    def draw(self, size: int, stream: NoiseStream) -> Integers:
        column = (stream.uint16(size) & self._mask).astype(np.intp)
        keep = stream.uint64(size) < self._thresholds[column]
        return np.where(keep, column, self._aliases[column]) - self._centre


@lru_cache(maxsize=64)
def _alias_table(sigma: float) -> _AliasTable:
    weights, centre = _integer_weights(sigma)
    unit, count = 1 << 64, len(weights)
    thresholds = np.full(count, unit - 1, dtype=np.uint64)
    aliases = np.arange(count, dtype=np.int64)
    small = [i for i, weight in enumerate(weights) if weight < unit]
    large = [i for i, weight in enumerate(weights) if weight > unit]
    while small and large:
        i, j = small.pop(), large[-1]
        thresholds[i], aliases[i] = weights[i], j
        weights[j] -= unit - weights[i]
        if weights[j] <= unit:
            large.pop()
            if weights[j] < unit:
                small.append(j)
    # All weight is placed: the columns left over are exactly full.
    assert not small
    assert not large
    return _AliasTable(thresholds, aliases, centre)


def _integer_weights(sigma: float) -> tuple[list[int], int]:
    """Probabilities of -K..K times 2^64 times the number of columns, as whole numbers with exactly that sum; and K."""
    with mpmath.workprec(160):
        reach = math.ceil(_TAIL_SIGMAS * sigma) + 1
        root = mpmath.mpf(sigma) * mpmath.sqrt(2)
        half = mpmath.mpf(1) / 2
        beyond = [mpmath.erfc((k - half) / root) / 2 for k in range(1, reach + 2)]  # P(X >= k), k = 1, 2, ...
        one_side = [beyond[k - 1] - beyond[k] for k in range(1, reach + 1)]
        probabilities = [*reversed(one_side), 1 - 2 * beyond[0], *one_side]
        columns = 1 << (len(probabilities) - 1).bit_length()
        weights = [int(mpmath.nint(p * columns * 2**64)) for p in probabilities]
    weights += [0] * (columns - len(weights))
    weights[reach] += columns * 2**64 - sum(weights)
    return weights, reach
