"""Apply one round's sum to the shared vector: the optimiser's step. A replay takes exactly the same step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.config.run import RunConfig
from server.config.schedule import round_lr, round_stage
from server.record.history import RoundRecord
from server.rounds.kept_sums import KeptMean, KeptSum, read_sum
from server.rounds.masked_sum import MaskedSum, SumForm
from server.rounds.ring_sum import Mask, RingSum
from server.strategy.choose import server_optimiser
from server.strategy.interface import State, UpdateRule
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector

# Key of the optimiser's state for the mean of the last vectors.
_AVERAGE = "average"
# Stage -> which numbers of the vector it trains, (d,).
Masks = Callable[[str], Mask]


def advance(
    config: RunConfig,
    masks: Masks,
    number: int,
    total: UpdateRule | RingSum | MaskedSum | KeptMean,
    vector: Vector,
    state: State,
) -> tuple[Vector, State]:
    """Return vector (d,) and optimiser state after round ``number``. Numbers that its stage does not train stay."""
    train, count = config.train, config.rounds.count
    # In mode shared the sites send a direction. The learning rate is applied here.
    scale = round_lr(train, number, count) if config.privacy.mode == "shared" else 1.0
    average = state.get(_AVERAGE)
    own: State = {key: value for key, value in state.items() if key != _AVERAGE}
    after, own = server_optimiser(config.aggregate).step(vector, total.mean(), own, scale)
    # Keep them even if the sites send zeros for them: momentum would go on moving them.
    after = np.where(masks(round_stage(train, number, count)[0]), after, vector)
    nth = number - (count - math.floor(config.aggregate.average * count))
    if nth >= 1:
        # The running mean of the last vectors. It uses nothing but them, so it costs no privacy.
        average = after.astype(np.float64) if average is None else average + (after - average) / nth
        own = {**own, _AVERAGE: average}
    return after, own


def adapter_of(vector: Vector, state: State) -> Vector:
    """Return a run's adapter (d,): the mean of the vectors of its last rounds where one was kept, else the last one."""
    average = state.get(_AVERAGE)
    return vector if average is None else average.astype(np.float32)


def replay(out: Path, config: RunConfig, initial: Vector, masks: Masks, history: Sequence[RoundRecord]) -> Vector:
    """Compute the shared vector (d,) again from ``initial`` and the kept sums of a finished run.

    It equals the adapter to the bit, because only these sums went into the adapter. Rounds that ``history`` (from the
    run's report) marks as taken back are left out. Raises InputError when a sum is missing.
    """
    adapter = initial
    for step in replayed(out, config, initial, masks, [record for record in history if not record.rolled_back]):
        adapter = step.adapter
    return adapter


@dataclass(frozen=True, kw_only=True)
class ReplayedRound:
    """One round computed again: its saved sum, the shared vector (d,) after it, and the adapter if it were the last."""

    record: RoundRecord
    kept: KeptSum
    vector: Vector
    adapter: Vector


def replayed(
    out: Path, config: RunConfig, initial: Vector, masks: Masks, history: Sequence[RoundRecord]
) -> Iterator[ReplayedRound]:
    """Compute a run again round by round; a round that was taken back changes nothing. InputError as for replay."""
    form = SumForm.of(config)
    vector, state = initial, server_optimiser(config.aggregate).initial_state(initial.size)
    for record in history:
        number, kept = record.round, read_sum(out, record.round)
        if kept is None or kept.total is None:
            raise InputError(f"{out}: the sum of round {number} is not here, so the run cannot be replayed")
        if not record.rolled_back:
            total: RingSum | MaskedSum | KeptMean
            if form is None:
                total = KeptMean(total=kept.total.astype(np.float64))
            else:
                total = form.read(masks(round_stage(config.train, number, config.rounds.count)[0]), kept.ring)
            vector, state = advance(config, masks, number, total, vector, state)
        yield ReplayedRound(record=record, kept=kept, vector=vector, adapter=adapter_of(vector, state))
