"""Convolutional parts of the U-shaped network: residual blocks told the noise time, and strided ways down and up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8


class Residual(nn.Module):
    """x + conv(silu(conv(silu(film(norm(x)))))), (B, C, z, y, x); it starts as the identity.

    ``told``: width of what scales and shifts the norm: noise time, role, spacing; (B or 1, told). One norm a block, for
    on a CPU its backward pass costs as much as a convolution's at this width.
    """

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.conv1, self.conv2 = (nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))
        self.film = nn.Linear(told, 2 * channels)
        for module in (self.conv2, self.film):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """The same shape."""
        scale, shift = self.film(told)[:, :, None, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        out: Tensor = x + self.conv2(F.silu(h))
        return out


def half(inside: int, outside: int) -> nn.Conv3d:
    """A convolution to half the grid."""
    return nn.Conv3d(inside, outside, 2, 2)


def double(inside: int, outside: int) -> nn.ConvTranspose3d:
    """A convolution to twice the grid."""
    return nn.ConvTranspose3d(inside, outside, 2, 2)


def channels_last(x: Tensor) -> Tensor:
    """The same numbers with the channel fastest in memory, also of one channel, where torch sees no difference.

    Convolutions of one channel would otherwise choose the other layout, and all that follows with them, at several
    times the cost. For inputs, that need no gradient.
    """
    _, c, z, y, w = x.shape
    laid = x.contiguous(memory_format=torch.channels_last_3d)
    return laid.as_strided(x.shape, (c * z * y * w, 1, y * w * c, w * c, c))
