"""Any2Any gating and the diffusion loss (docs/method.md, "The model", items 2 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared_model.diffusion.modalities import Example
from shared_model.network.device import autocast, device_of, moved
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.schedule import add_noise, shift_time, training_target
from shared_model.patient.case import CONDITIONS, MODALITIES

STAGES: tuple[str, ...] = ("any2any", "dose")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The task of one training step: denoise ``target`` given ``conditions``."""

    target: str
    conditions: tuple[str, ...]


def gate(stage: str, available: Sequence[str], generator: torch.Generator, least: float = 0.0) -> Draw:
    """Choose target and conditions among the modalities ``available``.

    Stage ``dose``: dose from all the others. Stage ``any2any``: any target with equal chance. Each other modality is
    visible with a probability that is itself drawn uniformly from ``least`` to 1. With ``least`` 0 every number of
    conditions occurs; with 1 all conditions are visible (the curriculum, server/rounds/loop.py).
    """
    present = [m for m in MODALITIES if m in available]
    if stage == "dose":
        return Draw(target="dose", conditions=tuple(m for m in CONDITIONS if m in present))
    target = present[int(torch.randint(len(present), (), generator=generator))]
    visible = least + (1.0 - least) * torch.rand((), generator=generator)
    keep = torch.rand(len(present), generator=generator) < visible
    return Draw(target=target, conditions=tuple(m for m, k in zip(present, keep, strict=True) if k and m != target))


def stack(examples: Sequence[Example], names: Sequence[str]) -> dict[str, Tensor]:
    """Modality -> latents (B, C, z, y, x), in float32 even if the examples keep them in lower precision."""
    return {m: torch.stack([e.latents[m] for e in examples]).float() for m in names}


def stack_estimates(examples: Sequence[Example]) -> Tensor | None:
    """The batch's estimates of the dose, (B, C, z, y, x) float32. None if the examples have none."""
    given = [e.estimate for e in examples if e.estimate is not None]
    return torch.stack(given).float() if given else None


def velocity_loss(
    network: Any2AnyDiT,
    examples: Sequence[Example],
    stage: str,
    generator: torch.Generator,
    precision: str,
    least: float = 0.0,
) -> Tensor:
    """Mean squared error on the target's tokens of one batch, (). Noise and times come from ``generator``.

    Examples with different modalities are gated separately, each kind by what it has. So no modality is dropped because
    another example in the batch lacks it. The loss is the mean over examples. ``least``: see ``gate``.
    """
    kinds: dict[tuple[str, ...], list[Example]] = {}
    for one in examples:
        kinds.setdefault(tuple(sorted(one.latents)), []).append(one)
    losses = [
        _loss(network, same, gate(stage, of, generator, least), generator, precision) for of, same in kinds.items()
    ]
    if len(losses) == 1:
        return losses[0]
    weights = [len(same) / len(examples) for same in kinds.values()]
    return torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum()


def _loss(
    network: Any2AnyDiT, examples: Sequence[Example], draw: Draw, generator: torch.Generator, precision: str
) -> Tensor:
    predicts = network.switches.predicts
    batch = stack(examples, [*draw.conditions, draw.target])
    estimate = stack_estimates(examples) if draw.target == "dose" else None
    x0 = batch.pop(draw.target)
    eps = torch.randn(x0.shape, generator=generator)
    t_b = shift_time(torch.rand(len(examples), generator=generator))
    x_t, v = add_noise(x0, eps, t_b)
    device = device_of(network)
    batch = {m: moved(volume, device) for m, volume in batch.items()}
    with autocast(device, precision):
        predicted = network(
            batch, draw.target, moved(x_t, device), moved(t_b, device),
            estimate_bczyx=None if estimate is None else moved(estimate, device),
        )  # fmt: skip
    loss: Tensor = (predicted.float() - moved(training_target(predicts, x0, eps, v), device)).square().mean()
    return loss
