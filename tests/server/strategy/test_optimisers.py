"""The server's optimisers against loops over single numbers."""

import numpy as np
import pytest

from server.strategy.choose import server_optimiser
from server.strategy.fedadam import FedAdam
from server.strategy.fedavg import FedAvg
from server.strategy.fedavgm import FedAvgM
from tests.builders.run_config import aggregate_config


def test_fedavg_adds_the_mean():
    vector, state = FedAvg(lr=0.5).step(np.ones(3, np.float32), np.array([1.0, 2.0, -2.0]), {})
    assert vector.tolist() == [1.5, 2.0, 0.0]
    assert vector.dtype == np.float32
    assert not state


def test_fedadam_follows_the_paper_without_bias_correction():
    means = np.random.default_rng(1).standard_normal((4, 3))
    optimizer = FedAdam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    vector, state = np.zeros(3, np.float32), optimizer.initial_state(3)
    for mean in means:
        vector, state = optimizer.step(vector, mean, state)
    for i in range(3):
        x, m, v = 0.0, 0.0, 1e-6
        for mean in means[:, i]:
            m = 0.9 * m + 0.1 * mean
            v = 0.99 * v + 0.01 * mean**2
            x = float(np.float32(x + 0.1 * m / (v**0.5 + 1e-3)))
        assert vector[i] == pytest.approx(x, rel=1e-6)


def test_fedavgm_follows_the_paper() -> None:
    optimizer = FedAvgM(lr=0.5, beta1=0.8)
    vector, state = np.zeros(2, np.float32), optimizer.initial_state(2)
    m, x = np.zeros(2), np.zeros(2)
    for mean in np.random.default_rng(2).standard_normal((4, 2)):
        vector, state = optimizer.step(vector, mean, state)
        m = 0.8 * m + mean
        x = (x + 0.5 * m).astype(np.float32)
        np.testing.assert_array_equal(vector, x)


def test_the_configuration_names_the_optimiser():
    assert server_optimiser(aggregate_config(lr=0.5)) == FedAvg(lr=0.5)
    assert server_optimiser(aggregate_config(name="fedadam", lr=0.1, tau=0.01)) == FedAdam(lr=0.1, tau=0.01)
