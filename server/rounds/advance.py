"""One round's sum onto the shared vector: the optimiser's step, the same when it is taken and when it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from server.config.privacy import run_terms
from server.config.run import RunConfig
from server.config.schedule import round_lr, round_stage
from server.record.history import RoundRecord
from server.rounds.aggregate import State, UpdateSum, server_optimizer
from server.rounds.kept_sums import read_sum
from server.rounds.ring_sum import Mask, RingSum
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector

# Stage -> which numbers of the vector it trains, (d,).
Masks = Callable[[str], Mask]


def advanced(
    config: RunConfig, masks: Masks, number: int, total: UpdateSum | RingSum, vector: Vector, state: State
) -> tuple[Vector, State]:
    """The vector (d,) and the optimiser's state after round ``number``; what its stage does not train stays as is."""
    train, count = config.train, config.rounds.count
    # In mode shared the sites send a direction, and the learning rate is applied here.
    scale = round_lr(train, number, count) if config.privacy.mode == "shared" else 1.0
    after, state = server_optimizer(config.aggregate).step(vector, total.mean(), state, scale)
    # Also where sites send zeros for it: momentum would go on.
    return np.where(masks(round_stage(train, number, count)[0]), after, vector), state


def replayed(out: Path, config: RunConfig, initial: Vector, masks: Masks, history: Sequence[RoundRecord]) -> Vector:
    """The shared vector (d,) that the kept sums of a finished run in modes shared and site lead to from ``initial``.

    It is the adapter's to the bit: nothing but these sums went into it, less those of rounds that ``history`` (of the
    run's report) says were taken back. Raises InputError where one is missing.
    """
    terms = run_terms(config)
    vector, state = initial, server_optimizer(config.aggregate).initial_state(initial.size)
    for number in (record.round for record in history if not record.rolled_back):
        kept = read_sum(out, number)
        if kept is None or kept.total is None or terms is None:
            raise InputError(f"{out}: the sum of round {number} is not kept here, so the run cannot be replayed")
        total = RingSum(terms, masks(round_stage(config.train, number, config.rounds.count)[0]), kept.total)
        vector, state = advanced(config, masks, number, total, vector, state)
    return vector
