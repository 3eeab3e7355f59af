"""Random draws and random starts of modules that depend only on a seed and on names."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Modules draw their first weights from torch's own random stream. All threads of a process share this one stream.
_one_at_a_time = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In this block, torch's random stream starts at ``seed``. After it, the stream goes on where it was.

    Only one thread at a time is inside. Code that builds modules in a thread must do so in this block, even if it
    overwrites their first weights. Otherwise it would take random numbers from another thread's start. Blocks may be
    nested.
    """
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def noise_generator(seed: int, *key: str) -> torch.Generator:
    """A random generator whose draws depend only on the seed and the names in ``key`` (site, round, patient)."""
    digest = hashlib.sha256("/".join((str(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
