"""Words of the key ``device``; and a whole step and sample on a device that is not the CPU.

The meta device computes shapes alone. A constant that was made on the CPU and not moved fails there as on a GPU.
"""

import pytest
import torch

from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.forms.volume_sampling import VolumeDenoiser, patient_noise
from shared_model.network.device import (
    autocast,
    chosen_device,
    chosen_devices,
    compute_dtype,
    memory_named,
    moved,
    quick_in_bf16,
)
from shared_model.network.pyramid import PyramidDiT
from shared_model.network.schedule import sample_ddim
from shared_model.training.recipe import Recipe
from shared_model.training.step import teach
from tests.builders.small_case import TINY, small_case

PATIENT = patient_channels(small_case())
META = torch.device("meta")


@pytest.fixture
def network() -> PyramidDiT:
    with META:
        return PyramidDiT(TINY)


def test_words() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    assert chosen_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    for word in ("gpu", "cuda:x", "CPU", "meta", ""):
        with pytest.raises(InputError, match="expected auto, cpu"):
            chosen_device(word)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"device=cuda:1: torch .* finds no accelerator here; expected device=cpu"):
        chosen_device("cuda:1")


def test_several_devices_are_listed_and_the_first_is_the_one_for_what_needs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    assert chosen_devices("cuda:0,1") == (first, second)
    assert chosen_device("cuda:1,0") == second
    assert chosen_devices("cuda:1,1") == (second,)
    assert chosen_devices("cuda") == (torch.device("cuda"),)
    assert chosen_devices("cpu") == (torch.device("cpu"),)
    with pytest.raises(InputError, match="2 devices here"):
        chosen_devices("cuda:0,2")
    for word in ("cpu,cuda", "cuda,1", "cuda:0,", "cuda:0,x"):
        with pytest.raises(InputError, match="expected auto, cpu"):
            chosen_devices(word)


def test_out_of_memory_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"out of memory while predicting; .*device=cpu"):  # noqa: SIM117
        with memory_named(torch.device("cuda:0"), "predicting"):
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_only_cuda_is_fed_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: asked.append("pinned") or tensor)
    x = torch.arange(4.0)
    assert moved(x, torch.device("cpu")) is x
    assert moved(x, torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16
    assert moved(x, META).device == META
    assert moved(torch.zeros(2, device=META), META).device == META
    assert asked == []
    # This machine's torch may have no CUDA; then what follows the pinning says so.
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            moved(x, torch.device("cuda"), torch.bfloat16)
    assert asked == ([] if torch.cuda.is_available() else ["pinned"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA")
def test_what_is_moved_to_cuda_arrives_whole() -> None:
    x = torch.arange(1e6).view(10, 10, 10, 1000).permute(3, 0, 1, 2)
    there = moved(x, torch.device("cuda"), torch.bfloat16)
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), x.to(torch.bfloat16))


@pytest.mark.parametrize("quick", [True, False])
def test_a_cpu_without_bf16_kernels_computes_in_float32(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a bf16 convolution takes 60 times as long as one in float32."""
    monkeypatch.setattr("shared_model.network.device.quick_in_bf16", lambda device: quick)
    cpu, layer = torch.device("cpu"), torch.nn.Linear(2, 2)
    wanted = torch.bfloat16 if quick else torch.float32
    assert compute_dtype(cpu, "bf16") == wanted
    assert compute_dtype(cpu, "fp32") == torch.float32
    with autocast(cpu, "bf16"):
        assert layer(torch.zeros(1, 2)).dtype == wanted


def test_an_accelerator_is_quick_in_bf16_and_the_cpu_says_for_itself() -> None:
    assert quick_in_bf16(torch.device("cuda", 0))
    assert not quick_in_bf16(META)
    level = torch.backends.cpu.get_cpu_capability()
    if level in ("DEFAULT", "AVX2"):
        assert not quick_in_bf16(torch.device("cpu"))
    elif level == "AMX":
        assert quick_in_bf16(torch.device("cpu"))


@pytest.mark.parametrize("any_share", [0.0, 1.0])
def test_a_training_step(network: PyramidDiT, any_share: float) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for seed in range(4):  # other views and other questions
        loss = teach(network, PATIENT, Recipe(any_share=any_share), torch.Generator().manual_seed(seed), "fp32").loss
        assert loss.device == META
        loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()


@torch.no_grad()
def test_a_sample(network: PyramidDiT) -> None:
    denoiser = VolumeDenoiser(network, PATIENT, precision="fp32")
    noise = patient_noise(PATIENT, 2, torch.Generator().manual_seed(0)).to(META)
    drawn = sample_ddim(denoiser, noise, 3)
    assert drawn.shape == noise.shape
    assert drawn.device == META
