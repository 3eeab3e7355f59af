"""Random starts of modules, from a seed and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Modules draw their first weights from torch's own stream, and a process has one of it for all threads.
_one_at_a_time = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's random stream starts at ``seed``; afterwards it goes on where it was.

    One thread at a time: whatever builds modules in a thread does it in here, also where their first weights are
    overwritten, or it would take numbers out of another thread's start. May be nested.
    """
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
