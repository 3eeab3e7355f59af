"""TradeoffNetwork: a small U-shaped network that moves a predicted dose towards wanted points of its histograms.

What it sees of the patient does not depend on what is wanted, and is computed once for all candidates. The wanted
changes enter painted into their structures and act twice: as features, and, weighted, on the dose itself, from where
training starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_model.channels.layout import NAMES
from shared_model.network.convolutions import GROUPS, double, half
from shared_model.patient.case import CONDITIONS
from shared_model.tradeoff.points import MAPS

# What is seen: all condition channels but CT's, the predicted dose, and log(spacing / usual) of z, y and x.
SEEN: tuple[str, ...] = tuple(name for m in CONDITIONS if m != "ct" for name in NAMES[m])
SEEN_CHANNELS = len(SEEN) + 1 + 3
# How much of a wanted change is added where it is painted, before anything is learned, in the order of points.VOLUMES.
_START = (0.7, 0.1, 0.3, 0.3, 0.3)


@dataclass(frozen=True, kw_only=True)
class TradeoffSpec:
    """``widths``: of the full, half, quarter and eighth grid. ``answer``: of the layer before the last."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 96)
    answer: int = 32


class _Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); it starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, channels)
        self.conv1, self.conv2 = (nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        out: Tensor = x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return out


class TradeoffNetwork(nn.Module):
    """See the module. Sizes of the grid are multiples of 8."""

    def __init__(self, spec: TradeoffSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or TradeoffSpec()
        w0, w1, w2, w3 = spec.widths
        self.seen, self.wanted = nn.Conv3d(SEEN_CHANNELS, w0, 1), nn.Conv3d(MAPS, w0, 1)
        self.down1, self.down2, self.down3 = half(w0, w1), half(w1, w2), half(w2, w3)
        self.enter1, self.enter2 = _Residual(w1), _Residual(w2)
        self.middle = nn.Sequential(_Residual(w3), _Residual(w3))
        self.up2, self.up1, self.up0 = double(w3, w2), double(w2, w1), double(w1, w0)
        self.leave2, self.leave1 = _Residual(w2), _Residual(w1)
        self.mix = nn.Conv3d(w0 + MAPS + 1, spec.answer, 1)
        self.head = nn.Conv3d(spec.answer, 1, 1)
        self.straight = nn.Conv3d(MAPS, 1, 1, bias=False)
        for parameter in (*self.head.parameters(), *self.straight.parameters()):
            nn.init.zeros_(parameter)
        self.straight.weight.data[0, : len(_START), 0, 0, 0] = torch.tensor(_START)
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    def see(self, patient: Tensor) -> Tensor:
        """What the patient (1, SEEN_CHANNELS, z, y, x) becomes, for ``forward``."""
        out: Tensor = self.seen(patient)
        return out

    def forward(self, seen: Tensor, maps: Tensor, dose: Tensor) -> Tensor:
        """Change of the dose, (n, 1, z, y, x), by ``maps`` (n, MAPS, z, y, x) about ``dose`` (n, 1, z, y, x)."""
        maps = maps.contiguous(memory_format=torch.channels_last_3d)
        x0 = F.silu(self.wanted(maps) + (seen if len(maps) == 1 else torch.cat([seen] * len(maps))))
        x1 = self.enter1(self.down1(x0))
        x2 = self.enter2(self.down2(x1))
        x2 = self.leave2(x2 + self.up2(self.middle(self.down3(x2))))
        x1 = self.leave1(x1 + self.up1(x2))
        x0 = F.silu(x0 + self.up0(x1))
        out: Tensor = self.head(F.silu(self.mix(torch.cat([x0, maps, dose], dim=1)))) + self.straight(maps)
        return out
