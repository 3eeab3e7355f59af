"""PyramidDiT: a U-shaped network that denoises any modality given any subset of the others.

Conditions enter by stems of their own (stems.py). Those that are there are summed at the fine levels and stand side by
side, a slot each, at the coarse one (core.py). The noisy target enters and leaves on the full grid; no level between is
a bottleneck of rank. What the conditions become (``Seen``) does not depend on the target's noise: it is computed once a
patient, exactly, for all sampling steps and candidates.

The network's answer F is an estimate of the clean target; what it returns is

    x_0 = w x_t + (1 - w alpha) F,   w = alpha s^2 / (alpha^2 s^2 + sigma^2),

the posterior mean of a target that differs from F by white noise of deviation s (the preconditioning of Karras et al.
2022, arXiv:2206.00364, about F instead of about zero). At t = 1 it is F, at t -> 0 the state, whatever the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from shared_model.channels.layout import NAMES, TARGET_CHANNELS
from shared_model.network.convolutions import Residual, channels_last, double, half
from shared_model.network.core import Core, Memory
from shared_model.network.device import full_precision
from shared_model.network.dit import CONDITION, TARGET
from shared_model.network.schedule import alpha_sigma
from shared_model.network.spec import Architecture
from shared_model.network.stems import BeamStem, Scales, Stem
from shared_model.patient.case import CONDITIONS, MODALITIES

# Deviation s of the target about the network's answer, in units of its own: what training leaves is about 3 of 24 Gy.
RESIDUAL_SD = 0.15
# The state enters the network times alpha / (alpha^2 + this^2)^0.5: at t = 1, where it tells nothing, as zeros.
FADE_ALPHA = 0.05
# The grid's voxel, mm, that counts as usual: log(spacing / this) is what the network is told.
USUAL_MM = (5.0, 8.0, 8.0)
STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class PyramidSpec:
    """Sizes. ``widths`` of the half and quarter grid, ``stem_widths`` of each modality there; ``full`` of the full."""

    widths: tuple[int, int] = (64, 128)
    stem_widths: tuple[int, int] = (32, 48)
    full: int = 16
    dim: int = 192
    heads: int = 3
    ffn_dim: int = 768
    layers: int = 3
    blocks: tuple[int, int] = (1, 2)
    target_blocks: tuple[int, int] = (1, 1)
    decoder_blocks: tuple[int, int] = (2, 2)


# By ModelSpec.size. Small: half the widths and fewer blocks, for studies of many trainings and for slow machines.
SIZES: Mapping[str, PyramidSpec] = {
    "small": PyramidSpec(
        widths=(32, 64), stem_widths=(16, 24), full=8, dim=96, heads=2, ffn_dim=384, layers=2,
        blocks=(1, 1), target_blocks=(1, 1), decoder_blocks=(1, 1),
    ),
    "base": PyramidSpec(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """One patient's conditions: ``volumes`` modality -> (1, C, z, y, x) by layout.NAMES, sizes multiples of STRIDE.

    ``beams``: (K, len(BEAM), z, y, x) and ``gantry_rad`` (K,) belong to the modality ``beam``; ``spacing_mm`` (z, y, x)
    of the voxels.
    """

    volumes: Mapping[str, Tensor]
    spacing_mm: Sequence[float]
    beams: Tensor | None = None
    gantry_rad: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What conditions have become: features on each grid and the DiT's keys and values; independent of noise."""

    full: Tensor | None
    half: Tensor | None
    quarter: Tensor | None
    memory: Memory = field(repr=False)
    context: Tensor
    spacing_mm: tuple[float, float, float]


class PyramidDiT(nn.Module):
    """See the module. A batch is one patient's: several noise draws, all seen with the same conditions."""

    def __init__(self, spec: PyramidSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or PyramidSpec()
        dim, (w0, w1), (s0, s1) = spec.dim, spec.widths, spec.stem_widths
        self.timesteps = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(256, dim)
        self.role = nn.Embedding(2, dim)
        # Which modality is the target, and which conditions are there.
        self.asked, self.there = nn.Embedding(len(MODALITIES), dim), nn.Embedding(len(CONDITIONS), dim)
        self.spacing = nn.Linear(3, dim)
        for embedding in (self.role, self.asked, self.there):
            nn.init.zeros_(embedding.weight)
        self.stems = nn.ModuleDict(
            {
                m: (BeamStem if m == "beam" else Stem)(len(NAMES[m]), spec.full, spec.stem_widths, dim, dim)
                for m in CONDITIONS
            }
        )
        self.fuse0 = nn.ModuleDict({m: nn.Conv3d(s0, w0, 1) for m in CONDITIONS})
        self.fuse1 = nn.ModuleDict({m: nn.Conv3d(s1, w1, 1) for m in CONDITIONS})
        self.seen0 = _blocks(spec.blocks[0], w0, dim)
        self.seen_down = half(w0, w1)
        self.seen1 = _blocks(spec.blocks[1], w1, dim)
        channels = {m: len(TARGET_CHANNELS[m]) for m in MODALITIES}
        self.enter = nn.ModuleDict({m: half(channels[m], w0) for m in MODALITIES})
        self.enter0 = _blocks(spec.target_blocks[0], w0, dim)
        self.enter_down = half(w0, w1)
        self.enter1 = _blocks(spec.target_blocks[1], w1, dim)
        self.to_core = half(w1, dim)
        self.core = Core(Architecture(dim=dim, heads=spec.heads, ffn_dim=spec.ffn_dim, layers=spec.layers))
        self.up1 = double(dim, w1)
        self.merge1 = nn.Conv3d(2 * w1, w1, 1)
        self.leave1 = _blocks(spec.decoder_blocks[1], w1, dim)
        self.up0 = double(w1, w0)
        self.merge0 = nn.Conv3d(2 * w0, w0, 1)
        self.leave0 = _blocks(spec.decoder_blocks[0], w0, dim)
        self.norm = nn.GroupNorm(8, w0)
        self.up = double(w0, spec.full)
        self.state = nn.ModuleDict({m: nn.Conv3d(channels[m], spec.full, 1) for m in MODALITIES})
        self.mix = nn.Conv3d(spec.full, spec.full, 1)
        self.head = nn.ModuleDict({m: nn.Linear(spec.full, channels[m]) for m in MODALITIES})
        # The layout that convolutions are quick in; the numbers are the same.
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, conditions: Conditions, target: str, x_t: Tensor, t_b: Tensor) -> Tensor:
        """Estimate of the clean target (B, C, z, y, x), float32, from its state ``x_t`` at noise times (B,)."""
        if target in conditions.volumes:
            raise ValueError(f"target {target!r} is also a condition")
        return self.denoise(self.remember(conditions), target, x_t, t_b)

    def remember(self, conditions: Conditions) -> Seen:
        """What the conditions become; exact for any target, noise time and batch."""
        names = [m for m in CONDITIONS if m in conditions.volumes]
        z, y, x = (float(mm) for mm in conditions.spacing_mm)
        device = self.spacing.weight.device
        log = torch.tensor([[z, y, x]], device=device).log() - torch.tensor([USUAL_MM], device=device).log()
        present = torch.tensor([CONDITIONS.index(m) for m in names], dtype=torch.long, device=device)
        context = self.spacing(log) + self.there(present).sum(0, keepdim=True)
        told = F.silu(context + self._time(torch.zeros(1, device=device), CONDITION))
        scales = {m: self._scales(m, conditions, told) for m in names}
        if not names:
            return Seen(full=None, half=None, quarter=None, memory=[], context=context, spacing_mm=(z, y, x))
        full = _sum([scales[m].full for m in names])
        fine = _sum([self.fuse0[m](scales[m].half) for m in names])
        for block in self.seen0:
            fine = block(fine, told)
        coarse = _sum([self.seen_down(fine), *(self.fuse1[m](scales[m].quarter) for m in names)])
        for block in self.seen1:
            coarse = block(coarse, told)
        tokens = torch.cat([scales[m].eighth.flatten(2).transpose(1, 2) for m in names])
        grid = scales[names[0]].eighth.shape[2:]
        slots = [MODALITIES.index(m) for m in names]
        memory = self.core.remember(tokens, slots, grid, _cells((z, y, x)), told)
        return Seen(full=full, half=fine, quarter=coarse, memory=memory, context=context, spacing_mm=(z, y, x))

    def denoise(self, seen: Seen, target: str, x_t: Tensor, t_b: Tensor) -> Tensor:
        """Estimate of the clean target from states (B, C, z, y, x) at noise times (B,)."""
        alpha, sigma = alpha_sigma(t_b, x_t.ndim)
        asked = self.asked(torch.tensor([MODALITIES.index(target)], device=x_t.device))
        told = F.silu(seen.context + self._time(t_b, TARGET) + asked)
        state = channels_last(x_t * (alpha / (alpha.square() + FADE_ALPHA**2).sqrt()))
        fine = _plus(self.enter[target](state), seen.half)
        for block in self.enter0:
            fine = block(fine, told)
        coarse = _plus(self.enter_down(fine), seen.quarter)
        for block in self.enter1:
            coarse = block(coarse, told)
        tokens = self.to_core(coarse)
        grid = tokens.shape[2:]
        tokens = tokens.flatten(2).transpose(1, 2)
        tokens = self.core(tokens, MODALITIES.index(target), grid, _cells(seen.spacing_mm), told, seen.memory)
        h = tokens.transpose(1, 2).unflatten(2, grid)
        h = self.merge1(torch.cat([self.up1(h), coarse], dim=1))
        for block in self.leave1:
            h = block(h, told)
        h = self.merge0(torch.cat([self.up0(h), fine], dim=1))
        for block in self.leave0:
            h = block(h, told)
        h = self.up(F.silu(self.norm(h)))
        h = F.silu(_plus(h + self.state[target](state), seen.full))
        h = F.silu(self.mix(h))
        with full_precision(h.device):
            answer = self.head[target](h.float().permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        weight = alpha * RESIDUAL_SD**2 / (alpha.square() * RESIDUAL_SD**2 + sigma.square())
        out: Tensor = weight * x_t + (1 - weight * alpha) * answer
        return out

    def _scales(self, modality: str, conditions: Conditions, told: Tensor) -> Scales:
        stem, volume = self.stems[modality], channels_last(conditions.volumes[modality])
        if isinstance(stem, BeamStem) and conditions.beams is not None and conditions.gantry_rad is not None:
            return stem.of_beams(volume, conditions.beams, conditions.gantry_rad, told)
        found: Scales = stem(volume, told)
        return found

    def _time(self, t_b: Tensor, role: int) -> Tensor:
        embedded = self.time_embedder(self.timesteps(1000.0 * t_b).to(self.spacing.weight.dtype))
        found: Tensor = embedded + self.role(torch.tensor([role], device=t_b.device))
        return found


def _blocks(count: int, channels: int, told: int) -> nn.ModuleList:
    return nn.ModuleList(Residual(channels, told) for _ in range(count))


def _plus(x: Tensor, seen: Tensor | None) -> Tensor:
    """Each of the batch with the one patient's features; by copies, since a broadcast's gradient loses the layout."""
    if seen is None:
        return x
    return x + (seen if len(x) == 1 else torch.cat([seen] * len(x)))


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, one by one: a stack would lose the memory layout."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _cells(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    return tuple(STRIDE * mm for mm in spacing_mm)
