"""The plain step: the shared vector moves by the mean update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.strategy.interface import State
from shared_model.core.vector import Vector


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
