"""Where the network computes: the words of the key ``device``, the way there, and autocast there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from shared_model.core.device_words import DEVICES, is_device_word
from shared_model.core.errors import InputError


def chosen_devices(word: str) -> tuple[torch.device, ...]:
    """All devices that ``word`` asks for, each once: several where it lists several (``cuda:0,1``)."""
    first, *more = word.split(",")
    kind = first.partition(":")[0]
    named = dict.fromkeys((first, *(f"{kind}:{number}" for number in more)))
    return tuple(chosen_device(one) for one in named) if is_device_word(word) else (chosen_device(word),)


def chosen_device(word: str) -> torch.device:
    """The device that ``word`` asks for, the first of several. ``auto``: this machine's accelerator, else the CPU.

    InputError if the word is not known, or if the machine or this build of torch does not have the device.
    """
    if not is_device_word(word):
        raise InputError(f"device={word!r}: expected {DEVICES}")
    there = torch.accelerator.current_accelerator(check_available=True)
    if word == "auto":
        return torch.device("cpu") if there is None else there
    wanted = torch.device(word.partition(",")[0])
    if wanted.type == "cpu":
        return wanted
    if there is None or there.type != wanted.type:
        found = "no accelerator" if there is None else f"only {there.type}"
        raise InputError(f"device={word}: torch {torch.__version__} finds {found} here; expected device=cpu or auto")
    if wanted.index is not None and wanted.index >= torch.accelerator.device_count():
        raise InputError(f"device={word}: {torch.accelerator.device_count()} devices here; the first is {there.type}:0")
    return wanted


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights lie."""
    return next(network.parameters()).device


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the CPU on ``device``, cast to ``dtype`` first: the only way by which patients' arrays get there.

    To CUDA it goes through pinned memory, from which the device copies while the CPU prepares what comes next; torch
    keeps that memory until the copy is done.
    """
    cast = tensor if dtype is None else tensor.to(dtype)
    if device.type == "cuda" and cast.device.type == "cpu":
        return cast.pin_memory().to(device, non_blocking=True)
    return cast.to(device)


def quick_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is worth its rounding there: every accelerator, and CPUs that oneDNN has bf16 kernels for.

    Others (AVX2 alone, as in most desktops) compute a bf16 convolution by plain loops, 60 times slower than float32.
    """
    return device.type not in ("cpu", "meta") or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What a network's inputs are cast to in ``autocast`` of the same arguments."""
    return torch.bfloat16 if precision == "bf16" and quick_in_bf16(device) else torch.float32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 where asked for and quick; else float32, which is the more exact.

    No cache: all threads share torch's cache of cast weights, and any thread that leaves such a block empties it. Then
    the gradient of a weight that a pass uses several times would depend on other threads.
    """
    if compute_dtype(device, precision) != torch.bfloat16:
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return context


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """No autocast in this block."""
    if device.type == "meta":  # computes shapes alone and knows no autocast
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return context


@contextmanager
def memory_named(device: torch.device, doing: str) -> Iterator[None]:
    """Turn the device's "out of memory" in this block into an InputError that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(
            f"device {device}: out of memory while {doing}; free the device, or use device=cpu, which is slower"
        ) from None
