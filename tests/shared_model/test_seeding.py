"""Models that start at random start alike, whatever other threads build at the same time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from shared_model.adapters import adapted_model
from shared_model.manifest import pack
from shared_model.spec import ModelSpec
from shared_model.voxel import VoxelBase, from_weights, weights

SPECS = [
    ModelSpec(prior="none", shape=(16, 16, 16), init_seed=3),
    ModelSpec(prior="none", shape=(16, 16, 16), init_seed=4, base="voxel"),
    ModelSpec(prior="video-small", shape=(16, 16, 16), adapter="lora", rank=4, alpha=4, init_seed=5),
    ModelSpec(prior="video-small", shape=(16, 16, 16), init_seed=6, base="voxel"),
]


@pytest.mark.parametrize("_again", range(3))
def test_threads_do_not_disturb_each_others_start(_again: int) -> None:
    """Studies of one run train side by side in threads, and torch has one random stream for all of them."""
    alone = [pack(adapted_model(spec)) for spec in SPECS]
    base = weights(VoxelBase())
    with ThreadPoolExecutor(8) as pool:
        noise = pool.map(lambda _: from_weights(base), range(200))
        together = list(pool.map(lambda spec: pack(adapted_model(spec)), SPECS * 4))
        list(noise)
    for number, vector in enumerate(together):
        assert np.array_equal(vector, alone[number % len(SPECS)]), SPECS[number % len(SPECS)]


def test_the_callers_random_stream_is_left_as_it_was() -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    for spec in SPECS:
        adapted_model(spec)
    assert torch.equal(torch.rand(3), wanted)
