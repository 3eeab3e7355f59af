"""Clipping of one patient's gradient. The only file of this package that knows torch.

A patient's plans, augmentations and timesteps are averaged into one gradient before it comes here: clipping them one
by one would let a patient with more plans weigh more than one patient may.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def clip_scale(norm: float, clip: float) -> float:
    """What a gradient of Euclidean norm ``norm`` is multiplied with so that its norm is at most ``clip``."""
    return min(1.0, clip / norm) if norm > 0.0 else 1.0


def clipped_gradient(parts: Sequence[Tensor | None], sizes: Sequence[int], clip: float) -> tuple[Tensor, float]:
    """Join a patient's gradients, one a parameter, to one vector (d,) float32 of norm at most ``clip``.

    ``None`` stands for zeros of that parameter's size. A gradient that holds anything not finite counts as zero: the
    patient is left out of the sum, at the same cost, and spoils nothing. Returns (vector, norm before clipping); the
    norm is NaN for a gradient that is not finite. The norm is a sum over float64, and is held once more on the integer
    grid (encoding.py), which does not depend on floating point.
    """
    flat = torch.cat(
        [
            torch.zeros(size) if part is None else part.detach().reshape(-1).float().cpu()
            for part, size in zip(parts, sizes, strict=True)
        ]
    )
    norm = float(torch.linalg.vector_norm(flat, dtype=torch.float64))
    if not torch.isfinite(flat).all():
        return torch.zeros_like(flat), float("nan")
    return flat * clip_scale(norm, clip), norm
