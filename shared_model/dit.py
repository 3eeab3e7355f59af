"""Any2AnyDiT: one transformer that denoises any modality given any subset of the others (METHOD.md, "The model").

Parameter names follow diffusers' WanTransformer3DModel where the part is the same, so that its weights map by name.
Parameters that Wan keeps bare live in a leaf module (``Table``), because Opacus takes per-sample gradients by module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from shared_model.case import MODALITIES
from shared_model.spec import Architecture
from shared_model.tokens import rope_phases, rotate, unpatchify

CONDITION, TARGET = 0, 1
EPS = 1e-6
PLAIN_ATTENTION_TOKENS = 1024


class Table(nn.Module):
    """A learned offset: adds ``weight`` (broadcast) to its input (B, S, ..., D)."""

    def __init__(self, *shape: int, std: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) * std)

    def forward(self, x: Tensor) -> Tensor:
        """X + weight."""
        return x + self.weight


def attend(q_bhld: Tensor, k_bhld: Tensor, v_bhld: Tensor) -> Tensor:
    """Scaled dot-product attention. On a CPU in bf16, the plain product is used for short sequences.

    There the fused kernel makes a training step of the small prior (896 tokens) 1.5 times slower; for long sequences
    it is the fast and the lean one.
    """
    short = q_bhld.shape[-2] <= PLAIN_ATTENTION_TOKENS
    if short and q_bhld.dtype == torch.bfloat16 and q_bhld.device.type == "cpu":
        scores = (q_bhld * q_bhld.shape[-1] ** -0.5) @ k_bhld.transpose(-1, -2)
        out: Tensor = scores.softmax(-1) @ v_bhld
        return out
    return F.scaled_dot_product_attention(q_bhld, k_bhld, v_bhld)


class Attention(nn.Module):
    """Self-attention with normalised queries and keys and rotary phases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)

    def forward(self, x_bld: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D); every token attends to every token."""
        q, k, v = (project(x_bld) for project in (self.to_q, self.to_k, self.to_v))
        # Norms and phases stay in float32 under bf16 autocast, as in diffusers.
        q, k = self.norm_q(q.float()), self.norm_k(k.float())
        q, k, v = (u.unflatten(2, (self.heads, -1)) for u in (q, k, v))
        q, k = (rotate(u, cos, sin).type_as(v) for u in (q, k))
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out = self.to_out[0](out.transpose(1, 2).flatten(2))
        assert isinstance(out, Tensor)
        return out


class Block(nn.Module):
    """Attention and feed-forward, both modulated by (role + timestep); one modulation per slot."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.dim
        self.norm1 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.attn1 = Attention(dim, arch.heads)
        self.ffn = FeedForward(dim, inner_dim=arch.ffn_dim, activation_fn="gelu-approximate")
        self.table = Table(1, 1, 6, dim, std=dim**-0.5)
        # What attention to an empty text adds (shared_model/wan.py); a backbone without text has none.
        self.null: nn.Module = Table(1, 1, dim) if arch.text_constant else nn.Identity()

    def forward(self, x_bld: Tensor, modulation_bs6d: Tensor, cos: Tensor, sin: Tensor, per_slot: int) -> Tensor:
        """(B, S*n, D) -> the same; ``per_slot`` = n tokens share one of the S modulations."""
        parts = self.table(modulation_bs6d).repeat_interleave(per_slot, dim=1).unbind(2)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        x = x_bld + gate_a * self.attn1(self.norm1(x_bld) * (1 + scale_a) + shift_a, cos, sin)
        x = self.null(x)
        out: Tensor = x + gate_f * self.ffn(self.norm3(x) * (1 + scale_f) + shift_f)
        return out


class Any2AnyDiT(nn.Module):
    """Predicts the velocity of one noisy target modality from any clean conditions.

    Each modality has its own patch embedding and head and its own slot in the rotary phases (its index in
    MODALITIES; dose is slot 0). The role embedding is added to the timestep embedding; conditions stand at t = 0.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        width = arch.latent_channels * math.prod(arch.patch)
        self.patch = nn.ModuleDict(
            {m: nn.Conv3d(arch.latent_channels, arch.dim, arch.patch, arch.patch) for m in MODALITIES}
        )
        self.head = nn.ModuleDict({m: nn.Linear(arch.dim, width) for m in MODALITIES})
        self.timesteps = Timesteps(arch.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(arch.freq_dim, arch.dim)
        self.time_proj = nn.Linear(arch.dim, 6 * arch.dim)
        self.role = nn.Embedding(2, arch.dim)
        nn.init.zeros_(self.role.weight)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.layers))
        self.norm_out = nn.LayerNorm(arch.dim, EPS, elementwise_affine=False)
        self.table_out = Table(1, 1, 2, arch.dim, std=arch.dim**-0.5)

    def forward(self, conditions: Mapping[str, Tensor], target: str, noisy_bczyx: Tensor, t_b: Tensor) -> Tensor:
        """Velocity (B, C, z, y, x) of ``target`` at noise time ``t_b`` in [0, 1].

        ``conditions``: modality -> clean latents (B, C, z, y, x); any subset, not holding the target.
        """
        if target in conditions:
            raise ValueError(f"target {target!r} is also a condition")
        patch = self.arch.patch
        names = [*sorted(conditions, key=MODALITIES.index), target]
        volumes = {**conditions, target: noisy_bczyx}
        grid = tuple(g // p for g, p in zip(noisy_bczyx.shape[2:], patch, strict=True))
        per_slot = math.prod(grid)
        x = self._tokens(names, volumes)
        time_bsd = self._time(t_b, len(names), x.dtype)
        modulation = self.time_proj(F.silu(time_bsd)).unflatten(-1, (6, -1))
        cos, sin = self._phases(names, (grid[0], grid[1], grid[2]), x.device)
        for block in self.blocks:
            x = block(x, modulation, cos, sin, per_slot)
        shift, scale = self.table_out(time_bsd[:, -1:, None]).unbind(2)
        y = self.head[target](self.norm_out(x[:, -per_slot:]) * (1 + scale) + shift)
        return unpatchify(y, (grid[0], grid[1], grid[2]), patch, self.arch.latent_channels)

    def _tokens(self, names: list[str], volumes: Mapping[str, Tensor]) -> Tensor:
        """(B, S*n, D) patch embeddings of the modalities ``names``, in that order."""
        return torch.cat([self.patch[m](volumes[m]).flatten(2).transpose(1, 2) for m in names], dim=1)

    def _time(self, t_b: Tensor, slots: int, dtype: torch.dtype) -> Tensor:
        """(B, S, D) timestep plus role embedding; the target is the last slot."""
        batch = t_b.shape[0]
        t_bs = torch.zeros(batch, slots, device=t_b.device)
        t_bs[:, -1] = 1000.0 * t_b
        role = torch.full((batch, slots), CONDITION, dtype=torch.long, device=t_b.device)
        role[:, -1] = TARGET
        embedded: Tensor = self.time_embedder(self.timesteps(t_bs.flatten()).unflatten(0, (batch, slots)).to(dtype))
        out: Tensor = embedded + self.role(role)
        return out

    def _phases(self, names: list[str], grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        phases = rope_phases([MODALITIES.index(m) for m in names], grid, self.arch.dim // self.arch.heads)
        return phases.cos().float()[:, None].to(device), phases.sin().float()[:, None].to(device)
