"""Sums of site updates that do not depend on their order, and the server's optimisers on the decoded mean.

An update u becomes integers q = round(u * 2^32) (half to even). The sum of w * q over the sites is kept in int64.
Integer addition is associative, so the sum is the same to the bit in any order of replies. 2^-32 = 2.3e-10 is below
half a unit in the last place of any float32 weight above 0.004, and every float32 times 2^32 is exact in float64. The
range of int64 is split evenly in advance: each site may use |w * q| <= 2^62 / sites. So the order does not decide which
updates are accepted either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.config.run import AggregateConfig
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
        if update.shape != self._sum.shape:
            raise UpdateRejectedError("wrong_shape", f"expected {self._sum.size} values, got {update.size}")
        norm = _norm(update)
        if not math.isfinite(norm):
            raise UpdateRejectedError("not_finite", "the update holds values that are not finite")
        if norm > self._max_norm:
            raise UpdateRejectedError("norm_exceeded", f"norm {norm:.6g} is above the limit {self._max_norm:.6g}")
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


def _norm(update: Vector) -> float:
    """Return the norm in float64; finite if and only if every value is (float32 squares never overflow float64)."""
    buffer = np.empty(min(_CHUNK, update.size), dtype=np.float64)
    squares = []
    for start in range(0, update.size, _CHUNK):
        part = buffer[: min(_CHUNK, update.size - start)]
        np.copyto(part, update[start : start + _CHUNK])
        squares.append(float(np.dot(part, part)))
    return math.sqrt(sum(squares)) if math.isfinite(sum(squares)) else math.nan


State = Mapping[str, NDArray[np.float64]]


class ServerOptimiser(Protocol):
    """Turns the mean update into the next shared vector. A state is named (d,) float64 arrays; checkpoints hold it."""

    def initial_state(self, size: int) -> State:
        """Return the state before the first round."""
        ...

    def step(self, vector: Vector, mean: NDArray[np.float64], state: State, scale: float = 1.0) -> tuple[Vector, State]:
        """Return the next vector (d,) float32 and state. ``scale`` multiplies the learning rate. Arguments stay."""
        ...


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """x + lr * mean (McMahan et al. 2017, arXiv:1602.05629, with a server learning rate). No state."""

    lr: float = 1.0

    def initial_state(self, size: int) -> State:
        """Return an empty state."""
        return {}

    def step(self, vector: Vector, mean: NDArray[np.float64], state: State, scale: float = 1.0) -> tuple[Vector, State]:
        """Add the mean update in float64 and round once to float32."""
        return (vector + self.lr * scale * mean).astype(np.float32), {}


@dataclass(frozen=True, kw_only=True)
class FedAvgM:
    """Heavy-ball momentum on the mean update (Hsu et al. 2019, arXiv:1909.06335): m = b1 m + mean; x = x + lr m."""

    lr: float
    beta1: float = 0.9

    def initial_state(self, size: int) -> State:
        """Return m = 0."""
        return {"m": np.zeros(size)}

    def step(self, vector: Vector, mean: NDArray[np.float64], state: State, scale: float = 1.0) -> tuple[Vector, State]:
        """Advance momentum and vector, in float64."""
        m = self.beta1 * state["m"] + mean
        return (vector + self.lr * scale * m).astype(np.float32), {"m": m}


@dataclass(frozen=True, kw_only=True)
class FedAdam:
    """Adam on the mean update (Reddi et al. 2021, arXiv:2003.00295, algorithm 2).

    m = b1 m + (1 - b1) mean;  v = b2 v + (1 - b2) mean^2;  x = x + lr * m / (sqrt(v) + tau).
    As in the paper, m starts at 0, v at tau^2, and there is NO bias correction: the first steps are small, because m
    holds only (1 - b1) of the first mean. ``tau`` sets the scale below which an update counts as small.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def initial_state(self, size: int) -> State:
        """Return m = 0 and v = tau^2."""
        return {"m": np.zeros(size), "v": np.full(size, self.tau**2)}

    def step(self, vector: Vector, mean: NDArray[np.float64], state: State, scale: float = 1.0) -> tuple[Vector, State]:
        """Advance both moments and the vector, in float64."""
        m = self.beta1 * state["m"] + (1.0 - self.beta1) * mean
        v = self.beta2 * state["v"] + (1.0 - self.beta2) * np.square(mean)
        return (vector + self.lr * scale * m / (np.sqrt(v) + self.tau)).astype(np.float32), {"m": m, "v": v}


def server_optimiser(config: AggregateConfig) -> ServerOptimiser:
    """Make the optimiser that the run's configuration names."""
    if config.name == "fedadam":
        return FedAdam(lr=config.lr, beta1=config.beta1, beta2=config.beta2, tau=config.tau)
    if config.name == "fedavgm":
        return FedAvgM(lr=config.lr, beta1=config.beta1)
    return FedAvg(lr=config.lr)
