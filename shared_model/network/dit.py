"""Any2AnyDiT: one transformer that denoises any modality given any subset of the others (docs/method.md, "The model").

Parameter names follow diffusers' WanTransformer3DModel where the part is the same, so that its weights map by name.
A parameter that Wan keeps outside of any module is here in a module of its own (``Table``), because Opacus takes
per-sample gradients by module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared_model.network.attention import Attend, LayerMemory, Memory, attend_all, condition_causal
from shared_model.network.spec import Architecture
from shared_model.network.switches import Switches
from shared_model.network.tokens import rope_phases, rotate, unpatchify
from shared_model.patient.case import MODALITIES

CONDITION, TARGET = 0, 1
SHARED = "shared"
EPS = 1e-6
ALL = slice(None)


class Table(nn.Module):
    """A learned offset: adds ``weight`` (broadcast) to its input (B, S, ..., D)."""

    def __init__(self, *shape: int, std: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) * std)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + weight."""
        return x + self.weight


class Attention(nn.Module):
    """Self-attention with normalised queries and keys and rotary phases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)

    def forward(
        self, x_bld: Tensor, cos: Tensor, sin: Tensor, attend: Attend = attend_all, asked: slice = ALL
    ) -> Tensor:
        """(B, L, D) -> (B, L, D), or only the tokens ``asked``. ``attend`` decides which tokens see which."""
        q, k, v = self.to_q(x_bld[:, asked]), self.to_k(x_bld), self.to_v(x_bld)
        # Norms and phases stay in float32 under bf16 autocast, as in diffusers.
        q, k = self.norm_q(q.float()), self.norm_k(k.float())
        q, k, v = (u.unflatten(2, (self.heads, -1)) for u in (q, k, v))
        q, k = rotate(q, cos[asked], sin[asked]).type_as(v), rotate(k, cos, sin).type_as(v)
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
        # What attention to an empty text adds (shared_model/backbone/wan.py); a backbone without text has none.
        self.null: nn.Module = Table(1, 1, dim) if arch.text_constant else nn.Identity()

    def forward(
        self,
        x_bld: Tensor,
        modulation_bs6d: Tensor,
        cos: Tensor,
        sin: Tensor,
        per_slot: int,
        attend: Attend,
        asked: slice = ALL,
    ) -> Tensor:
        """(B, S*n, D) -> the same shape, or only the tokens ``asked``. n = ``per_slot`` tokens share a modulation."""
        parts = self.table(modulation_bs6d).repeat_interleave(per_slot, dim=1)
        shift_a, scale_a = parts[:, :, :2].unbind(2)
        gate_a, shift_f, scale_f, gate_f = parts[:, asked, 2:].unbind(2)
        seen = self.norm1(x_bld) * (1 + scale_a) + shift_a
        x = x_bld[:, asked] + gate_a * self.attn1(seen, cos, sin, attend, asked)
        x = self.null(x)
        out: Tensor = x + gate_f * self.ffn(self.norm3(x) * (1 + scale_f) + shift_f)
        return out


class Any2AnyDiT(nn.Module):
    """Predicts the velocity (or ``switches.predicts``) of one noisy target modality from any clean conditions.

    Each modality has its own patch embedding and head and its own slot in the rotary phases (its index in
    MODALITIES; dose is slot 0). The role embedding is added to the timestep embedding; conditions stand at t = 0.
    """

    def __init__(self, arch: Architecture, switches: Switches | None = None) -> None:
        super().__init__()
        self.arch = arch
        self.switches = switches or Switches()
        width = arch.latent_channels * math.prod(arch.patch)
        embedded = (SHARED,) if self.switches.patch_embedding == "shared" else MODALITIES
        self.patch = nn.ModuleDict(
            {m: nn.Conv3d(arch.latent_channels, arch.dim, arch.patch, arch.patch) for m in embedded}
        )
        self.head = nn.ModuleDict({m: nn.Linear(arch.dim, width) for m in MODALITIES})
        # Embeds an estimate of the dose, if the caller gives one.
        self.estimate: nn.Module | None = None
        self.timesteps = Timesteps(arch.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(arch.freq_dim, arch.dim)
        self.time_proj = nn.Linear(arch.dim, 6 * arch.dim)
        # Absent, not zero, when switched off: a parameter without a gradient would still travel.
        self.role = nn.Embedding(2, arch.dim) if self.switches.role_embedding else None
        if self.role is not None:
            nn.init.zeros_(self.role.weight)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.layers))
        self.norm_out = nn.LayerNorm(arch.dim, EPS, elementwise_affine=False)
        self.table_out = Table(1, 1, 2, arch.dim, std=arch.dim**-0.5)

    def take_estimate(self) -> None:
        """Let the dose's tokens see an estimate of the dose, through a new patch embedding that starts at zero.

        This adds no tokens: each token of the noisy dose gets the estimate at its own place. ConvNets of the residual
        form do this with channels (arXiv:2309.15214).
        """
        arch = self.arch
        self.estimate = nn.Conv3d(arch.latent_channels, arch.dim, arch.patch, arch.patch)
        for parameter in self.estimate.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        conditions: Mapping[str, Tensor],
        target: str,
        noisy_bczyx: Tensor,
        t_b: Tensor,
        memory: Memory | None = None,
        estimate_bczyx: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, C, z, y, x) of ``target`` at noise time ``t_b`` in [0, 1].

        ``conditions``: modality -> clean latents (B, C, z, y, x), any subset without the target. With the ``memory``
        of ``remember(conditions)`` only the target's tokens are computed. ``estimate_bczyx``: latents of an estimate of
        the dose, needed if dose is the target and the network takes an estimate. ValueError if it is missing, or given
        without need, or if the target is also a condition.
        """
        if target in conditions:
            raise ValueError(f"target {target!r} is also a condition")
        if (self.estimate is not None and target == "dose") != (estimate_bczyx is not None):
            raise ValueError("the estimate of the dose is missing, or the network takes none")
        seen = [] if memory is not None else _sort_by_slot(conditions)
        volumes = {**conditions, target: noisy_bczyx}
        per_slot = math.prod(self._grid(noisy_bczyx))
        time_bsd = self._time(t_b, len(seen))
        if memory is not None:
            attends: list[Attend] = [layer.recall for layer in memory] or [attend_all] * len(self.blocks)
        elif self.switches.attention == "condition-causal":
            attends = [condition_causal(per_slot * len(seen))] * len(self.blocks)
        else:
            attends = [attend_all] * len(self.blocks)
        # Only the target's tokens leave the last block, so only they attend there, and they see all tokens.
        attends[-1] = attends[-1] if memory else attend_all
        x = self._blocks([*seen, target], volumes, time_bsd, attends, slice(-per_slot, None), estimate_bczyx)
        shift, scale = self.table_out(time_bsd[:, -1:, None]).unbind(2)
        y = self.head[target](self.norm_out(x) * (1 + scale) + shift)
        return unpatchify(y, self._grid(noisy_bczyx), self.arch.patch, self.arch.latent_channels)

    def remember(self, conditions: Mapping[str, Tensor]) -> Memory:
        """Compute keys and values of one patient's conditions, modality -> (1, C, z, y, x), for ``forward``.

        They are exact for any noise time and any batch, but only under condition-causal attention. ValueError under
        any other.
        """
        if self.switches.attention != "condition-causal":
            raise ValueError("only condition-causal attention lets the conditions be computed once")
        names = _sort_by_slot(conditions)
        if not names:
            return []
        memory = [LayerMemory() for _ in self.blocks]
        some = conditions[names[0]]
        time_bsd = self._time(torch.zeros(some.shape[0], device=some.device), len(names) - 1, CONDITION)
        self._blocks(names, conditions, time_bsd, [layer.store for layer in memory])
        return memory

    def _blocks(
        self,
        names: list[str],
        volumes: Mapping[str, Tensor],
        time_bsd: Tensor,
        attends: Sequence[Attend],
        asked: slice = ALL,
        estimate_bczyx: Tensor | None = None,
    ) -> Tensor:
        """Embed the modalities ``names`` and run all blocks. The last block returns only the tokens ``asked``."""
        grid = self._grid(volumes[names[0]])
        x = self._tokens(names, volumes, estimate_bczyx)
        modulation = self.time_proj(F.silu(time_bsd)).unflatten(-1, (6, -1))
        cos, sin = self._phases(names, grid, x.device)
        for number, (block, attend) in enumerate(zip(self.blocks, attends, strict=True), 1):
            given = (x, modulation, cos, sin, math.prod(grid), attend, asked if number == len(self.blocks) else ALL)
            if self.switches.checkpointing and self.training:
                # A block draws no random numbers. Torch's random stream belongs to all threads, so it is left alone.
                x = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*given)
        return x

    def _tokens(self, names: list[str], volumes: Mapping[str, Tensor], estimate_bczyx: Tensor | None = None) -> Tensor:
        """Patch embeddings (B, S*n, D) of the modalities ``names``, in that order. The last gets the estimate."""
        shared = self.switches.patch_embedding == "shared"
        embedded = [self.patch[SHARED if shared else m](volumes[m]) for m in names]
        if self.estimate is not None and estimate_bczyx is not None:
            embedded[-1] = embedded[-1] + self.estimate(estimate_bczyx)
        return torch.cat([e.flatten(2).transpose(1, 2) for e in embedded], dim=1)

    def _grid(self, volume_bczyx: Tensor) -> tuple[int, int, int]:
        z, y, x = (g // p for g, p in zip(volume_bczyx.shape[2:], self.arch.patch, strict=True))
        return z, y, x

    def _time(self, t_b: Tensor, clean: int, last: int = TARGET) -> Tensor:
        """Timestep plus role embedding (B, clean + 1, D): ``clean`` conditions at t = 0, then the last slot at t_b."""
        batch = t_b.shape[0]
        t_bs = torch.zeros(batch, clean + 1, device=t_b.device)
        t_bs[:, -1] = 1000.0 * t_b
        embedded: Tensor = self.time_embedder(
            self.timesteps(t_bs.flatten()).unflatten(0, (batch, clean + 1)).to(self.time_embedder.linear_1.weight.dtype)
        )
        if self.role is None:
            return embedded
        role = torch.full((batch, clean + 1), CONDITION, dtype=torch.long, device=t_b.device)
        role[:, -1] = last
        out: Tensor = embedded + self.role(role)
        return out

    def _phases(self, names: list[str], grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        slots = [MODALITIES.index(m) for m in names]
        phases = rope_phases(slots, grid, self.arch.dim // self.arch.heads, self.switches.rope)
        return phases.cos().float()[:, None].to(device), phases.sin().float()[:, None].to(device)


def _sort_by_slot(conditions: Mapping[str, Tensor]) -> list[str]:
    return sorted(conditions, key=MODALITIES.index)
