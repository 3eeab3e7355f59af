"""What one sample teaches: the loss of a patient in one view, at noise time 1 and at a drawn one.

At t = 1 the network's answer is its mean dose (nothing of the state enters): mean absolute error inside the body, as
OpenKBP's dose score counts it, plus a distance of dose-volume histograms. At the drawn time the same error alone.
Both share what the conditions become. Any other modality is learned by mean squared error over the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared_model.channels.layout import BEAM, ORGAN_ON_RAY, SCALE, TARGET_CHANNELS, Layout
from shared_model.channels.volumes import PatientChannels
from shared_model.network.device import autocast, compute_dtype, moved
from shared_model.network.pyramid import Conditions, PyramidDiT
from shared_model.network.schedule import add_noise, shift_time
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.scoring.dvh_distance import dvh_distance
from shared_model.training.recipe import Ask, Recipe, ask
from shared_model.training.views import Sight, seen_from

# A structure of fewer voxels has no histogram.
LEAST_VOXELS = 8
STRUCTURES: tuple[str, ...] = ("is_high", "is_middle", "is_low", *(f"is_{name}" for name in OAR_NAMES))
# Other modalities' squared error, in units of their own variance, beside dose's absolute error.
OTHER_WEIGHT = 0.1
# Shares of the noise's variance that are the same over blocks of so many voxels: a plan differs from another plan in
# broad strokes, and noise of single voxels would hide those only where nearly nothing else is left.
BLOCKS: tuple[tuple[int, float], ...] = ((1, 0.55), (2, 0.15), (4, 0.15), (8, 0.15))


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The loss to descend, and the mean absolute error of dose at t = 1 in units of prescription (None: another)."""

    loss: Tensor
    error: Tensor | None


def plan_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise of unit variance, (..., z, y, x), sizes multiples of the largest block of BLOCKS; on the CPU."""
    out = torch.zeros(tuple(shape))
    for block, share in BLOCKS:
        coarse = torch.randn(*shape[:-3], *(n // block for n in shape[-3:]), generator=generator)
        for axis in (-3, -2, -1):
            coarse = coarse.repeat_interleave(block, dim=axis) if block > 1 else coarse
        out += share**0.5 * coarse
    return out


def conditions_of(
    sight: Sight, layout: Layout, names: Sequence[str], device: torch.device, dtype: torch.dtype
) -> Conditions:
    """The conditions ``names`` of a view, as the network takes them."""

    def volume(channels_last: Tensor) -> Tensor:
        return moved(channels_last, device, dtype).permute(3, 0, 1, 2)

    volumes = {m: volume(sight.stack[..., layout.of(m)].contiguous())[None] for m in names}
    beams = None
    if "beam" in names and layout.beams:
        each = sight.stack[..., layout.each_beam].unflatten(-1, (layout.beams, len(BEAM)))
        beams = moved(each.permute(3, 0, 1, 2, 4).contiguous(), device, dtype).permute(0, 4, 1, 2, 3)
        if "oar" not in names:
            beams[:, ORGAN_ON_RAY] = 0.0
    return Conditions(
        volumes=volumes,
        spacing_mm=sight.spacing_mm,
        beams=beams,
        gantry_rad=None if beams is None else moved(sight.gantry_rad, device),
    )


@dataclass(frozen=True, kw_only=True)
class DrawnSample:
    """All that chance says of one sample: the question, the patient as seen, noise (2, C, z, y, x) and noise time."""

    question: Ask
    sight: Sight
    noise: Tensor
    time: Tensor


def draw(patient: PatientChannels, recipe: Recipe, generator: torch.Generator) -> DrawnSample:
    """Draw one sample of a patient from ``generator``, on the CPU."""
    question = ask(recipe, patient.present, generator)
    sight = seen_from(patient, question.view)
    shape = (2, len(TARGET_CHANNELS[question.target]), *sight.stack.shape[:3])
    noise = plan_noise(shape, generator)
    time = shift_time(torch.rand((), generator=generator), recipe.shift)
    return DrawnSample(question=question, sight=sight, noise=noise, time=time)


def teach(
    network: PyramidDiT, patient: PatientChannels, recipe: Recipe, generator: torch.Generator, precision: str = "bf16"
) -> Taught:
    """The loss of one sample; everything that is drawn comes from ``generator``, on the CPU."""
    return learn(network, patient, draw(patient, recipe, generator), recipe, precision)


def learn(
    network: PyramidDiT, patient: PatientChannels, drawn: DrawnSample, recipe: Recipe, precision: str = "bf16"
) -> Taught:
    """The loss of a sample that was drawn."""
    device = network.spacing.weight.device
    question, sight = drawn.question, drawn.sight
    dtype = compute_dtype(device, precision)
    conditions = conditions_of(sight, patient.layout, question.conditions, device, dtype)
    mean, unit = SCALE[question.target]
    truth = moved(sight.stack[..., patient.layout.target(question.target)].permute(3, 0, 1, 2)[None], device)
    of_dose = question.target == "dose"
    inside = moved(sight.stack[..., patient.layout.index("body")] > 0.5, device) if of_dose else None
    x0 = (truth - mean) / unit
    eps = moved(drawn.noise, device)
    if inside is not None:
        x0, eps = x0 * inside, eps * inside
    time = moved(drawn.time, device)
    t_b = torch.stack([torch.ones_like(time), time])
    x_t, _ = add_noise(x0.expand_as(eps), eps, t_b)
    with autocast(device, precision):
        answer = network(conditions, question.target, x_t, t_b)
    if inside is None:
        loss = (answer - x0).square().mean((1, 2, 3, 4))
        return Taught(loss=OTHER_WEIGHT * (loss[0] + recipe.noisy_weight * loss[1]) / 2, error=None)
    dose = answer[:, 0] * unit + mean
    errors = ((dose - truth[0]).abs() * inside).sum((1, 2, 3)) / inside.sum()
    loss = (errors[0] + recipe.noisy_weight * errors[1]) / 2
    if recipe.dvh_weight:
        # Where structures are is found on the CPU: an accelerator would have to wait for each count.
        places = [(sight.stack[..., patient.layout.index(name)] > 0.5).flatten().nonzero()[:, 0] for name in STRUCTURES]
        flat, true = dose[0].flatten(), truth[0, 0].flatten()
        apart = [dvh_distance(flat[p], true[p]) for q in places if len(q) >= LEAST_VOXELS for p in (moved(q, device),)]
        if apart:
            loss = loss + recipe.dvh_weight / 2 * torch.stack(apart).mean()
    return Taught(loss=loss, error=errors[0].detach())
