"""Sums of site updates that do not depend on their order.

An update u becomes integers q = round(u * 2^32) (half to even). The sum of w * q over the sites is kept in int64.
Integer addition is associative, so the sum is the same to the bit in any order of replies. 2^-32 = 2.3e-10 is below
half a unit in the last place of any float32 weight above 0.004, and every float32 times 2^32 is exact in float64. The
range of int64 is split evenly in advance: each site may use |w * q| <= 2^62 / sites. So the order does not decide which
updates are accepted either.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.vector import Vector

FRACTION_BITS = 32
_SCALE = 2.0**FRACTION_BITS
_ROOM = 2**62
_CHUNK = 131_072  # elements; one chunk's float64 and int64 buffers, 1 MiB each, stay in a core's cache


class UpdateRejectedError(FedKT3DError):
    """One site's update cannot be added to the sum. ``reason`` is the drop reason (server/record/history.py)."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class UpdateSum:
    """Weighted sum of updates of ``size`` values from at most ``sites`` sites, in 8 bytes per value.

    Raises InputError when ``size`` or ``sites`` is below 1.
    """

    def __init__(self, size: int, sites: int, max_norm: float) -> None:
        if size < 1 or sites < 1:
            raise InputError(f"update sum: size {size} and sites {sites} must be 1 or more")
        self._sum: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self._room = _ROOM // sites
        self._sites = sites
        self._max_norm = max_norm
        self.weight = 0
        self.count = 0

    def add(self, update: Vector, weight: int) -> float:
        """Check an update (d,) float32, add it ``weight`` times, and return its Euclidean norm.

        Raises UpdateRejectedError with reason wrong_shape, not_finite or norm_exceeded. Then the sum is unchanged.
        """
        norm = check_update(update, self._sum.size, self._max_norm)
        largest = max(float(update.max()), -float(update.min()))
        if weight < 1 or weight * (int(largest * _SCALE) + 1) > self._room:
            raise UpdateRejectedError("norm_exceeded", f"weight {weight} times {largest:.6g} does not fit in int64")
        if self.count == self._sites:
            raise FedKT3DError(f"update sum: got more than the expected {self._sites} updates")
        self._fold(update, weight)
        self.weight += weight
        self.count += 1
        return norm

    def _fold(self, update: Vector, weight: int) -> None:
        scaled = np.empty(min(_CHUNK, update.size), dtype=np.float64)
        whole = np.empty(scaled.size, dtype=np.int64)
        for start in range(0, update.size, _CHUNK):
            part = update[start : start + _CHUNK]
            scaled_part, whole_part = scaled[: part.size], whole[: part.size]
            np.multiply(part, _SCALE, out=scaled_part, dtype=np.float64)
            np.rint(scaled_part, out=scaled_part)
            np.copyto(whole_part, scaled_part, casting="unsafe")
            whole_part *= weight
            self._sum[start : start + _CHUNK] += whole_part

    def mean(self) -> NDArray[np.float64]:
        """Return the weighted mean update, (d,) float64; FedKT3DError when no update was added."""
        if self.weight == 0:
            raise FedKT3DError("update sum: no update was added, so there is no mean")
        return self._sum / (self.weight * _SCALE)


def check_update(update: Vector, size: int, max_norm: float) -> float:
    """Return the Euclidean norm of an update, which must be (size,), finite and at most ``max_norm`` long.

    Raises UpdateRejectedError with reason wrong_shape, not_finite or norm_exceeded.
    """
    if update.shape != (size,):
        raise UpdateRejectedError("wrong_shape", f"expected {size} values, got {update.size}")
    norm = _norm(update)
    if not math.isfinite(norm):
        raise UpdateRejectedError("not_finite", "the update holds values that are not finite")
    if norm > max_norm:
        raise UpdateRejectedError("norm_exceeded", f"norm {norm:.6g} is above the limit {max_norm:.6g}")
    return norm


def _norm(update: Vector) -> float:
    """Return the norm in float64; finite if and only if every value is (float32 squares never overflow float64)."""
    buffer = np.empty(min(_CHUNK, update.size), dtype=np.float64)
    squares = []
    for start in range(0, update.size, _CHUNK):
        part = buffer[: min(_CHUNK, update.size - start)]
        np.copyto(part, update[start : start + _CHUNK])
        squares.append(float(np.dot(part, part)))
    return math.sqrt(sum(squares)) if math.isfinite(sum(squares)) else math.nan
