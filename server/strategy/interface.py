"""What every strategy is made of: a rule that joins the updates of a round, and an optimiser that takes the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared_model.core.vector import Vector

State = Mapping[str, NDArray[np.float64]]


class UpdateRule(Protocol):
    """Joins the updates of one round as they arrive. What it gives must not depend on their order, to the bit."""

    def add(self, update: Vector, weight: int) -> float:
        """Take an update (d,) float32 in and return its Euclidean norm.

        Raises UpdateRejectedError (server/strategy/update_sum.py) for one that must not count; nothing is changed then.
        """
        ...

    def mean(self) -> NDArray[np.float64]:
        """Return what the round changes, (d,) float64. FedKT3DError when no update was added."""
        ...


class ServerOptimiser(Protocol):
    """Turns the mean update into the next shared vector. A state is named (d,) float64 arrays; checkpoints hold it."""

    def initial_state(self, size: int) -> State:
        """Return the state before the first round."""
        ...

    def step(self, vector: Vector, mean: NDArray[np.float64], state: State, scale: float = 1.0) -> tuple[Vector, State]:
        """Return the next vector (d,) float32 and state. ``scale`` multiplies the learning rate. Arguments stay."""
        ...
