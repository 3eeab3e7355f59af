"""Momentum at the server, which evens out what differs between the rounds' sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.strategy.interface import State
from shared_model.core.vector import Vector


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
