"""Adam at the server: every number has a step of its own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.strategy.interface import State
from shared_model.core.vector import Vector


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
