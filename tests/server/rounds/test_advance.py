"""A round's step onto the shared vector, stage by stage."""

import numpy as np
import pytest

from server.rounds.advance import adapter_of, advance
from server.strategy.choose import server_optimiser
from server.strategy.update_sum import UpdateSum
from tests.builders.run_config import aggregate_config, plain_run, rounds_config, train_config

BASE = np.array([True, True, False, False])


def masks(stage: str) -> np.ndarray:
    return BASE if stage == "base" else ~BASE


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_momentum_does_not_move_a_base_whose_rounds_are_over(name: str) -> None:
    """Later rounds learn dose minus the base: sites send zeros for it, and it has to stay where it is."""
    config = plain_run(
        model={"prior": "none", "base": "phantom"},
        rounds=rounds_config(count=6),
        train=train_config(base_rounds=3),
        aggregate=aggregate_config(name=name),
    )
    vector = np.zeros(4, dtype=np.float32)
    state = server_optimiser(config.aggregate).initial_state(4)
    for number in range(1, 7):
        total = UpdateSum(4, sites=1, max_norm=1e3)
        trained = masks("base" if number <= 3 else "dose")
        total.add(np.where(trained, 0.1, 0.0).astype(np.float32), 1)
        before = vector
        vector, state = advance(config, masks, number, total, vector, state)
        assert (vector[trained] > before[trained]).all()
        assert np.array_equal(vector[~trained], before[~trained])


@pytest.mark.parametrize(("average", "used"), [(0.0, [6]), (0.5, [4, 5, 6]), (1.0, [1, 2, 3, 4, 5, 6])])
def test_the_adapter_is_the_mean_of_the_last_vectors(average: float, used: list[int]) -> None:
    config = plain_run(
        model={}, rounds=rounds_config(count=6), aggregate=aggregate_config(name="fedavgm", average=average)
    )
    vector, state = np.zeros(4, np.float32), server_optimiser(config.aggregate).initial_state(4)
    seen = {}
    generator = np.random.default_rng(0)
    for number in range(1, 7):
        total = UpdateSum(4, sites=1, max_norm=1e3)
        total.add(generator.normal(size=4).astype(np.float32), 1)
        vector, state = advance(config, lambda _: np.ones(4, bool), number, total, vector, state)
        seen[number] = vector
    expected = np.mean([seen[number].astype(np.float64) for number in used], axis=0)
    np.testing.assert_allclose(adapter_of(vector, state), expected, rtol=1e-6)
