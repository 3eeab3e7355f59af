"""One patient's gradient as one vector, and what clipping makes of it. The only file of this package that knows torch.

A patient's plans, augmentations and timesteps are averaged into one gradient before it comes here: clipping them one
by one would let a patient with more plans weigh more than one patient may.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from privacy.dp.encoding import euclidean_norm


def flatten_gradient(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    """Join a patient's gradients, one a parameter, to one vector (d,) float32 on the CPU, as long as it is.

    ``None`` stands for zeros of that parameter's size. Whoever adds it to a sum clips it (encoding.py).
    """
    return torch.cat(
        [
            torch.zeros(size) if part is None else part.detach().reshape(-1).float().cpu()
            for part, size in zip(parts, sizes, strict=True)
        ]
    )


def clip_to_norm(gradient: Tensor, clip: float) -> Tensor:
    """Shorten a vector (d,) to norm ``clip`` at most; one that holds anything not finite becomes zero.

    What the encoding does on its own grid, in real numbers: for whoever looks at a single patient's share.
    """
    norm = euclidean_norm(gradient.numpy())
    if not math.isfinite(norm):
        return torch.zeros_like(gradient)
    return gradient * (clip / norm) if norm > clip else gradient
