"""Several processes that train one network, each on a device of its own: they share out a step's patients.

Started by ``torchrun``, which tells each process its number in the environment; without it there is one process. Sums
go over torch.distributed: NCCL between CUDA devices, gloo between CPU processes. Chance stays that of one process, so
the update is that of one process with all patients of the step, but for the order of the sums. No wrapper around the
network: a pass is several calls of it, and a parameter that no patient used must stay without a gradient.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from shared_model.network.device import chosen_device

# The first process scores validation patients while the others wait for it.
_PATIENCE = timedelta(hours=6)
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Together:
    """This process among ``count``: its ``number`` (0 leads: it alone scores and writes) and its device."""

    device: torch.device = CPU
    number: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that scores, writes and speaks."""
        return self.number == 0

    def has(self, place: int) -> bool:
        """Whether the patient at ``place`` of a step is this process's."""
        return place % self.count == self.number

    def agree(self, word: bool) -> bool:
        """What the first process says, in all of them."""
        if self.count == 1:
            return word
        said = torch.tensor([int(word)], device=self.device)
        dist.broadcast(said, 0)
        return bool(said.item())

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over the processes, in place; one that no process has stays None."""
        if self.count == 1:
            return
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([there, *(part.flatten() for part in parts)])
        dist.all_reduce(flat)
        used = flat[: len(parts)].tolist()
        sums = flat[len(parts) :].split([p.numel() for p in parameters])
        for parameter, part, somewhere, total in zip(parameters, parts, used, sums, strict=True):
            parameter.grad = part.copy_(total.view(part.shape)) if somewhere else None

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(list(numbers), dtype=torch.float32, device=self.device)
        dist.all_reduce(total)
        return [float(n) for n in total.tolist()]

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The first process does this block before the others: it fills caches that they read."""
        if self.count > 1 and not self.leads:
            dist.barrier()
        yield
        if self.count > 1 and self.leads:
            dist.barrier()


@contextmanager
def joined(word: str) -> Iterator[Together]:
    """This process's part in what ``torchrun`` started, or alone; ``word``: the key ``device`` (network/device.py)."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    device = chosen_device(word)
    if count == 1:
        yield Together(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Together(device=device, number=dist.get_rank(), count=count)
    finally:
        dist.destroy_process_group()
