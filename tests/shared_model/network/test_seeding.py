"""Models that start at random start alike, whatever other threads build at the same time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from shared_model.adapter.manifest import pack
from shared_model.adapter.shared import adapted_model
from shared_model.backbone.prior import load_prior
from shared_model.diffusion.modalities import Example
from shared_model.diffusion.objective import velocity_loss
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.seeding import seeded
from shared_model.network.spec import ModelSpec
from shared_model.network.switches import Switches
from shared_model.patient.case import MODALITIES
from shared_model.patient.geometry import Grid

SPECS = [
    ModelSpec(prior="none", shape=(16, 16, 16), init_seed=3),
    ModelSpec(prior="none", shape=(16, 16, 16), init_seed=4, base="phantom"),
    ModelSpec(prior="video-small", shape=(16, 16, 16), adapter="lora", rank=4, alpha=4, init_seed=5),
    ModelSpec(prior="video-small", shape=(16, 16, 16), init_seed=6, base="phantom"),
]


def other_start(_: int) -> None:
    with seeded(0):
        torch.nn.Linear(128, 128)


@pytest.mark.parametrize("_again", range(3))
def test_threads_do_not_disturb_each_others_start(_again: int) -> None:
    """Studies of one run train side by side in threads, and torch has one random stream for all of them."""
    alone = [pack(adapted_model(spec)) for spec in SPECS]
    with ThreadPoolExecutor(8) as pool:
        noise = pool.map(other_start, range(200))
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


def loss_and_model(**switches: object) -> tuple[torch.Tensor, Any2AnyDiT]:
    model = load_prior(ModelSpec(shape=(16, 16, 16), switches=Switches(**switches))).train()  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    latents = {m: torch.randn(32, 4, 4, 4, generator=g) for m in MODALITIES}
    patient = Example(case_id="a", grid=Grid((8, 16, 16), (3.0, 3.0, 3.0)), latents=latents)
    return velocity_loss(model, [patient], "dose", torch.Generator().manual_seed(2), "bf16"), model


def test_checkpointing_leaves_torchs_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would set the stream back for its second pass, in the middle of another thread's start."""
    loss, model = loss_and_model(checkpointing=True)
    with monkeypatch.context() as patch:
        for of in (torch, torch.random):
            patch.setattr(of, "set_rng_state", lambda _: pytest.fail("torch's stream was set"))
        loss.backward()
    assert model.role.weight.grad is not None


def test_a_gradient_is_the_same_while_other_threads_leave_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread leaves autocast empties the cache of cast weights that all threads share."""
    alone, model = loss_and_model(patch_embedding="shared")
    alone.backward()
    wanted = model.patch["shared"].weight.grad
    conv = torch.nn.Conv3d.forward

    def emptied(self: torch.nn.Conv3d, volume: torch.Tensor) -> torch.Tensor:
        out = conv(self, volume)
        torch.clear_autocast_cache()
        return out

    monkeypatch.setattr(torch.nn.Conv3d, "forward", emptied)
    beside, model = loss_and_model(patch_embedding="shared")
    beside.backward()
    assert torch.equal(model.patch["shared"].weight.grad, wanted)  # type: ignore[arg-type]
