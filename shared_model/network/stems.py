"""What one modality's conditions become: features at four scales, for the target's path and for the DiT's slots.

The full grid sees 1x1x1 convolutions alone (a voxel's own physics), half and quarter a small pyramid, the eighth the
tokens of the modality's slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_model.channels.layout import BEAM
from shared_model.network.convolutions import Residual, half

# (sin, cos) of the gantry angle and of twice that.
DIRECTION = 4


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Features (1, C, ...) on the full grid, its half, quarter and eighth."""

    full: Tensor
    half: Tensor
    quarter: Tensor
    eighth: Tensor


class Stem(nn.Module):
    """Channels (1, C, z, y, x) of one modality -> Scales; z, y, x are multiples of 8."""

    def __init__(self, channels: int, full: int, widths: tuple[int, int], dim: int, told: int) -> None:
        super().__init__()
        self.voxel = nn.Conv3d(channels, full, 1)
        self.down1 = half(channels, widths[0])
        self.down2 = half(widths[0], widths[1])
        self.block = Residual(widths[1], told)
        self.down3 = half(widths[1], dim)

    def forward(self, x: Tensor, told: Tensor) -> Scales:
        """``told``: (1, told)."""
        return self._pyramid(self.voxel(x), self.down1(x), told)

    def _pyramid(self, full: Tensor, first: Tensor, told: Tensor) -> Scales:
        quarter = self.block(self.down2(F.silu(first)), told)
        return Scales(full=full, half=first, quarter=quarter, eighth=self.down3(quarter))


class BeamStem(Stem):
    """The same of the beams: one small network for every beam, told its direction, summed over any number of them.

    Order-free: no beam has weights of its own, so 5, 7 or 9 beams at any angles are one kind of input. The sum is over
    the square root of their number, beside the strongest answer of any.
    """

    def __init__(self, channels: int, full: int, widths: tuple[int, int], dim: int, told: int) -> None:
        super().__init__(channels, full, widths, dim, told)
        self.each = half(len(BEAM), widths[0])
        self.direction = nn.Linear(DIRECTION, 2 * widths[0])
        self.pooled = nn.Conv3d(2 * widths[0], widths[0], 1)
        nn.init.zeros_(self.direction.weight)
        nn.init.zeros_(self.direction.bias)

    def of_beams(self, x: Tensor, each_kczyx: Tensor, gantry_rad_k: Tensor, told: Tensor) -> Scales:
        """``x`` as in ``forward``; the K beams' own channels (K, len(BEAM), z, y, x) and gantry angles (K,)."""
        root = max(1, each_kczyx.shape[0]) ** -0.5
        angles = torch.stack([gantry_rad_k, 2 * gantry_rad_k], dim=1)
        turned = self.direction(torch.cat([angles.sin(), angles.cos()], dim=1))
        scale, shift = turned[:, :, None, None, None].chunk(2, dim=1)
        beams = F.silu(self.each(each_kczyx) * (1 + scale) + shift)
        pooled = torch.cat([beams.sum(0, keepdim=True) * root, beams.amax(0, keepdim=True)], dim=1)
        first = self.down1(x) + self.pooled(pooled.contiguous(memory_format=torch.channels_last_3d))
        return self._pyramid(self.voxel(x), first, told)
