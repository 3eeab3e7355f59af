"""The coarse level: a DiT over slots, one for each condition and one for the noisy target (METHOD.md, "The model").

Block, role embedding and rotary phases are those of the paper's form (dit.py). Positions are millimetres, not indices,
since the voxel size differs between patients. Conditions see conditions alone; the target sees all: so what the
conditions become is computed once a patient and serves every noise time and every candidate exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_model.network.dit import ALL, Block
from shared_model.network.spec import Architecture
from shared_model.network.tokens import ROPE_BASE

# On a CPU the plain product is quicker than torch's fused kernel up to here, forward and several times backward.
PLAIN_TOKENS = 4096
# A step of one radian of the fastest pair, mm: a little more than half an eighth-grid cell of OpenKBP at 64^3.
MM_PER_RADIAN = 24.0
# The slowest pairs of each axis also carry the slot (tokens.rope_phases, kind ``overlay``).
_SLOT_PAIRS = 2


def phases(
    slots: Sequence[int], grid: Sequence[int], cell_mm: Sequence[float], head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (S*n, 1, head_dim/2), of the tokens of ``slots`` on a (z, y, x) ``grid`` of ``cell_mm``."""
    pairs = head_dim // 2
    plane = pairs // 3
    spatial, turns = [], []
    axes = torch.meshgrid(
        *[
            (torch.arange(n, device=device) - (n - 1) / 2) * (mm / MM_PER_RADIAN)
            for n, mm in zip(grid, cell_mm, strict=True)
        ],
        indexing="ij",
    )
    for axis, width in zip(axes, (pairs - 2 * plane, plane, plane), strict=True):
        rate = ROPE_BASE ** (-torch.arange(width, device=device) / width)
        spatial.append(axis.reshape(-1, 1) * rate)
        k = min(_SLOT_PAIRS, width)
        turn = math.pi / 4 * 0.5 ** torch.arange(k, device=device)
        turns.append(torch.cat([torch.zeros(width - k, device=device), turn]))
    slot = torch.tensor(list(slots), dtype=torch.float32, device=device)[:, None, None] * torch.cat(turns)
    angle = (torch.cat(spatial, dim=1)[None] + slot).reshape(-1, 1, pairs)
    return angle.cos(), angle.sin()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query to every key, (B, heads, L, d)."""
    if k.shape[-2] <= PLAIN_TOKENS and k.device.type == "cpu":
        out: Tensor = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        return out
    return F.scaled_dot_product_attention(q, k, v)


class Kept:
    """Keys and values of one patient's conditions in one block, (1, heads, L, d)."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def store(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend among the conditions, and keep their keys and values."""
        self.k, self.v = k, v
        return attend(q, k, v)

    def recall(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from the target's tokens to the kept conditions and to themselves; any batch."""
        if self.k is None or self.v is None:
            raise ValueError("no condition was stored")
        k, v = (torch.cat((old.expand(len(q), -1, -1, -1), new), 2) for old, new in ((self.k, k), (self.v, v)))
        return attend(q, k, v)


# One a block; empty where there are no conditions.
Memory = list[Kept]


class Core(nn.Module):
    """``layers`` blocks of the paper's DiT."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.head_dim = arch.dim // arch.heads
        self.modulation = nn.Linear(arch.dim, 6 * arch.dim)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.layers))

    def remember(
        self, tokens_snd: Tensor, slots: Sequence[int], grid: Sequence[int], cell_mm: Sequence[float], told: Tensor
    ) -> Memory:
        """Keys and values of the conditions' tokens (S, n, D) in each block, for ``forward``; empty for no slot."""
        if not slots:
            return []
        cos, sin = phases(slots, grid, cell_mm, self.head_dim, tokens_snd.device)
        per_slot = tokens_snd.shape[1]
        x = tokens_snd.flatten(0, 1)[None]
        parts = self.modulation(told).unflatten(-1, (1, 6, -1)).expand(-1, len(slots), -1, -1)
        memory = [Kept() for _ in self.blocks]
        for number, (block, layer) in enumerate(zip(self.blocks, memory, strict=True), 1):
            # The last block's conditions are only looked at: nothing is asked of them.
            asked = slice(0, 0) if number == len(self.blocks) else ALL
            x = block(x, parts, cos, sin, per_slot, layer.store, asked)
        return memory

    def forward(
        self, tokens_bnd: Tensor, slot: int, grid: Sequence[int], cell_mm: Sequence[float], told: Tensor, memory: Memory
    ) -> Tensor:
        """The target's tokens (B, n, D) after all blocks; ``told`` (B, D)."""
        cos, sin = phases([slot], grid, cell_mm, self.head_dim, tokens_bnd.device)
        parts = self.modulation(told).unflatten(-1, (1, 6, -1))
        x = tokens_bnd
        for number, block in enumerate(self.blocks):
            x = block(x, parts, cos, sin, tokens_bnd.shape[1], memory[number].recall if memory else attend)
        return x
