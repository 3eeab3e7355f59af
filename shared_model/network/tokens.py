"""From latents to tokens: 4D rotary phases and the patch layout (docs/method.md, "The model", items 3 to 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROPE_BASE = 10000.0


def _rates(pairs: int) -> Tensor:
    """Radians per step of the pairs of one axis, fastest first."""
    return ROPE_BASE ** (-torch.arange(pairs, dtype=torch.float64) / max(1, pairs))


def rope_phases(slots: list[int], grid: tuple[int, int, int], head_dim: int, kind: str = "overlay") -> Tensor:
    """Rotation angles (S*n, head_dim/2) in radians of the tokens of ``slots``, each a (z, y, x) ``grid`` of n tokens.

    There are four kinds of slot axis. All but the last keep the three spatial axes' angles of the video backbone
    (Wan 2.1 splits the head in t, h, w):

    - ``overlay``: the slot index adds a turn to the lowest-frequency pairs of each axis, on top of their spatial angle.
      These pairs hardly turn over any grid that fits. Within one slot, phases differ exactly as in the backbone.
    - ``split``: the same pairs encode only the slot, as in the paper's literal d_S + d_H + d_W + d_D.
    - ``none``: no slot axis, only the backbone's own three.
    - ``naive``: the head is split into four new parts, so that every frequency differs from what the backbone learned.
    """
    pairs = head_dim // 2
    slot_pairs = head_dim // 8 if kind == "naive" else 0
    plane = (pairs - slot_pairs) // 3
    widths = (pairs - slot_pairs - 2 * plane, plane, plane)
    overlaid = 0 if kind in ("none", "naive") else max(1, head_dim // 16)
    axes = torch.meshgrid(*[torch.arange(g, dtype=torch.float64) for g in grid], indexing="ij")
    spatial = [torch.zeros(axes[0].numel(), slot_pairs, dtype=torch.float64)]
    slot_rate = [_rates(slot_pairs)]
    for axis, width in zip(axes, widths, strict=True):
        rate = _rates(width)
        turn = torch.zeros(width, dtype=torch.float64)
        k = min(overlaid, width)
        turn[width - k :] = math.pi / 4 * 0.5 ** torch.arange(k, dtype=torch.float64)
        if kind == "split":
            rate[width - k :] = 0.0
        spatial.append(axis.reshape(-1, 1) * rate)
        slot_rate.append(turn)
    inside = torch.cat(spatial, dim=1)
    between = torch.tensor(slots, dtype=torch.float64)[:, None, None] * torch.cat(slot_rate)
    return (inside[None] + between).reshape(-1, pairs)


def rotate(x_blhd: Tensor, cos_l1p: Tensor, sin_l1p: Tensor) -> Tensor:
    """Rotate interleaved pairs of the head dimension; (B, L, h, d) with phases (L, 1, d/2)."""
    a, b = x_blhd.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos_l1p - b * sin_l1p, a * sin_l1p + b * cos_l1p), dim=-1).flatten(-2)


def unpatchify(tokens_bnp: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int], channels: int) -> Tensor:
    """(B, n, patch volume * channels) -> (B, channels, z, y, x). The channel is the fastest index, as in Wan."""
    b = tokens_bnp.shape[0]
    x = tokens_bnp.reshape(b, *grid, *patch, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(b, channels, *(g * p for g, p in zip(grid, patch, strict=True)))
