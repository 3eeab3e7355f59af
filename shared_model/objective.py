"""Any2Any gating and the velocity loss (METHOD.md, items 2 and 7 of "The model")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared_model.case import CONDITIONS, MODALITIES
from shared_model.diffusion import noised, shift_time
from shared_model.dit import Any2AnyDiT
from shared_model.modalities import Example

STAGES: tuple[str, ...] = ("any2any", "dose")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one training step asks: denoise ``target`` given ``conditions``."""

    target: str
    conditions: tuple[str, ...]


def gate(stage: str, available: Sequence[str], generator: torch.Generator) -> Draw:
    """Choose target and conditions among the modalities that the whole batch has.

    Stage ``dose``: dose from all the others. Stage ``any2any``: a uniform target, and each other modality visible
    with a probability that is itself uniform, so that every number of conditions occurs.
    """
    present = [m for m in MODALITIES if m in available]
    if stage == "dose":
        return Draw(target="dose", conditions=tuple(m for m in CONDITIONS if m in present))
    target = present[int(torch.randint(len(present), (), generator=generator))]
    visible = torch.rand((), generator=generator)
    keep = torch.rand(len(present), generator=generator) < visible
    return Draw(target=target, conditions=tuple(m for m, k in zip(present, keep, strict=True) if k and m != target))


def stack(examples: Sequence[Example], names: Sequence[str]) -> dict[str, Tensor]:
    """Modality -> latents (B, C, z, y, x)."""
    return {m: torch.stack([e.latents[m] for e in examples]) for m in names}


def velocity_loss(
    model: Any2AnyDiT, examples: Sequence[Example], stage: str, generator: torch.Generator, precision: str
) -> Tensor:
    """Mean squared velocity error on the target's tokens of one batch; noise and times come from ``generator``."""
    available = set.intersection(*(set(e.latents) for e in examples))
    draw = gate(stage, sorted(available), generator)
    batch = stack(examples, [*draw.conditions, draw.target])
    x0 = batch.pop(draw.target)
    eps = torch.randn(x0.shape, generator=generator)
    t_b = shift_time(torch.rand(len(examples), generator=generator))
    x_t, v = noised(x0, eps, t_b)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        predicted = model(batch, draw.target, x_t, t_b)
    loss: Tensor = (predicted.float() - v).square().mean()
    return loss
