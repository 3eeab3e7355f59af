"""Integer Gaussian noise from the operating system's randomness. No seed in a configuration can reach it.

The rounded Gaussian RG(s) has P(k) = Phi((k + 1/2) / s) - Phi((k - 1/2) / s) on the integers. It is a continuous
Gaussian after rounding, so whatever holds for the Gaussian mechanism holds for it (docs/privacy.md). Probabilities are
computed to 160 bits. Most values are drawn from a table by 16 random bits, a few by Walker's alias method (1977) with
thresholds of 64 bits. A large sigma is a sum of rounded Gaussians on coarser and coarser lattices. ``SAMPLER_TV``
bounds how far the distribution of one number drawn here may be from the exact one.
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

from shared_model.core.errors import InputError

Integers = NDArray[np.int64]

# Total variation of one number: at most seven levels, each 1.1 x 2^-65 from its table and 2e-23 from tails of 10 sigma.
SAMPLER_TV = 2.0**-62
LARGEST_SIGMA = 2.0**40
_TABLE_SIGMA = 320.0  # up to this sigma one table is enough; 16 bits number its alias columns
_BASE_SIGMA = 256.0  # sigma of a level, in units of its own lattice
_SMOOTHING = 4.0  # sigma of the finer levels, in units of the coarser lattice
_TAIL_SIGMAS = 10
_CELLS = 1 << 16  # cells of a table, one for each value of 16 random bits
_LEFT = -(1 << 15)  # marks a cell that belongs to no value alone
_CHUNK = 1 << 15


class NoiseStream:
    """Uniform random bits: AES-256 in counter mode. Its key is 32 bytes of os.urandom that nothing else ever sees.

    Make one for each release, in the process that uses it: a forked process would repeat its parent's stream.
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

    The variance is sigma^2 plus at most 1/12 of the squared coarsest lattice step: never less than the Gaussian's.
    Raises InputError for a sigma outside 1 to 2^40.
    """
    if not 1.0 <= sigma <= LARGEST_SIGMA:
        raise InputError(f"noise: sigma {sigma:g} of the integer grid; expected 1 to 2^40")
    levels = [(shift, _table(part)) for shift, part in _levels(sigma)]
    out = np.zeros(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        coarser = levels[0][0]
        for shift, table in levels:
            part <<= coarser - shift
            part += table.draw(part.size, stream)
            coarser = shift
    return out


def _levels(sigma: float) -> Sequence[tuple[int, float]]:
    """Return (k, s) of each level, coarsest first. The noise is the sum of 2^k RG(s); the variances sum to sigma^2."""
    if sigma <= _TABLE_SIGMA:
        return [(0, float(sigma))]
    shift = max(1, math.ceil(math.log2(sigma / _BASE_SIGMA)))
    finer = _SMOOTHING * 2**shift
    return [(shift, math.sqrt(sigma * sigma - finer * finer) / 2**shift), *_levels(finer)]


class _Table:
    """Draws a value of -K..K by 16 random bits; a few values take 80 more bits (Marsaglia, Tsang and Wang 2004).

    Each value owns as many of the 2^16 cells as fit into its probability. The cells left over draw the rest of the
    probabilities by Walker's alias method with 2^n columns: 16 bits choose the column, 64 choose column or alias.
    """

    def __init__(self, weights: list[int], centre: int) -> None:
        columns = len(weights)
        cell = columns << 48  # of columns * 2^64 in all
        counts = [weight // cell for weight in weights]
        left = _CELLS - sum(counts)
        whole = np.repeat(np.arange(columns) - centre, counts)
        self._cells = np.concatenate([whole, np.full(left, _LEFT)]).astype(np.int16)
        rest = [((weight % cell) * 2 * _CELLS + left) // (2 * left) for weight in weights]
        rest[rest.index(max(rest))] += (columns << 64) - sum(rest)
        self._thresholds, self._aliases = _alias_columns(rest)
        self._mask, self._centre = np.uint16(columns - 1), centre

    def draw(self, size: int, stream: NoiseStream) -> NDArray[np.int16]:
        """Draw ``size`` values."""
        values = self._cells.take(stream.uint16(size))
        left = np.flatnonzero(values == _LEFT)
        column = (stream.uint16(left.size) & self._mask).astype(np.intp)
        keep = stream.uint64(left.size) < self._thresholds[column]
        values[left] = np.where(keep, column, self._aliases[column]) - self._centre
        return values


@lru_cache(maxsize=64)
def _table(sigma: float) -> _Table:
    return _Table(*_integer_weights(sigma))


def _alias_columns(weights: list[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return thresholds and aliases for weights that add up to 2^64 times their number. Overwrites ``weights``."""
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
    return thresholds, aliases


def _integer_weights(sigma: float) -> tuple[list[int], int]:
    """Return the probabilities of -K..K as whole numbers, and K. The numbers sum to exactly 2^64 times the columns."""
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
