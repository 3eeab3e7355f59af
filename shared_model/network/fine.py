"""FineNet: from a dose that was predicted on coarser voxels, and what the patient's own voxels know, to what it lacks.

A small U of two levels with no norms, so that a window of a patient and the whole of one get the same answer. Its last
layer starts at 0: untrained, the second stage changes nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_model.network.convolutions import double, half

# Sizes of what it takes are multiples of this.
FINE_STRIDE = 2
# The last layer's answers of about 1 are this share of the prescription.
UNIT = 0.05


class _Plain(nn.Module):
    """x + conv(silu(conv(silu(x)))), 3x3x3; it starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x))))
        return out


class FineNet(nn.Module):
    """(1, ``channels``, z, y, x), sizes multiples of FINE_STRIDE -> (1, 1, z, y, x) in units of the prescription."""

    def __init__(self, channels: int, width: int = 16, deep: int = 48, blocks: tuple[int, int] = (1, 2)) -> None:
        super().__init__()
        self.enter = nn.Conv3d(channels, width, 1)
        self.down = half(channels, deep)
        self.deep = nn.ModuleList(_Plain(deep) for _ in range(blocks[1]))
        self.up = double(deep, width)
        self.fine = nn.ModuleList(_Plain(width) for _ in range(blocks[0]))
        self.head = nn.Conv3d(width, 1, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to the dose."""
        h = self.down(x)
        for block in self.deep:
            h = block(h)
        h = self.enter(x) + self.up(F.silu(h))
        for block in self.fine:
            h = block(h)
        out: Tensor = UNIT * self.head(F.silu(h))
        return out
