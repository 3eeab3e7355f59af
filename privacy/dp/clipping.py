"""Flatten one patient's gradient into one vector and clip it. This is the only file of the package that imports torch.

The caller averages a patient's plans, augmentations and timesteps into one gradient first. Clipping them one by one
would let a patient with more plans weigh more than one patient may.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from privacy.dp.encoding import euclidean_norm


def flatten_gradient(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    """Join a patient's gradients, one per parameter, into one vector (d,) float32 on the CPU. It is not clipped.

    ``None`` stands for zeros of that parameter's size. The code that adds the vector to a sum clips it (encoding.py).
    """
    return torch.cat(
        [
            torch.zeros(size) if part is None else part.detach().reshape(-1).float().cpu()
            for part, size in zip(parts, sizes, strict=True)
        ]
    )


def clip_to_norm(gradient: Tensor, clip: float) -> Tensor:
    """Shorten a vector (d,) to norm ``clip`` or less. A vector with any non-finite value becomes zero.

    The encoding does the same on its integer grid (encoding.py). This version uses real numbers, for code that looks
    at a single patient's share.
    """
    norm = euclidean_norm(gradient.numpy())
    if not math.isfinite(norm):
        return torch.zeros_like(gradient)
    return gradient * (clip / norm) if norm > clip else gradient
