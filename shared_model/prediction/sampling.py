"""Dose of a patient from a PyramidDiT: the mean in one pass, or candidates by DDIM steps from noise.

Conditions are computed once a patient, and once more for their mirror image where flips are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared_model.channels.layout import SCALE
from shared_model.channels.volumes import PatientChannels
from shared_model.network.pyramid import PyramidDiT, Seen
from shared_model.network.schedule import add_noise, recover, shift_time
from shared_model.patient.case import CONDITIONS
from shared_model.training.step import autocast, conditions_of, plan_noise
from shared_model.training.views import Sight, View, seen_from

SHIFT = 6.0


@torch.no_grad()
def predicted(
    network: PyramidDiT,
    patient: PatientChannels,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    flips: bool = False,
    conditions: Sequence[str] | None = None,
    precision: str = "bf16",
) -> NDArray[np.float32]:
    """(candidates, z, y, x) doses in Gy on the patient's box, 0 outside the body.

    ``steps`` 1: the network's mean, the same for every candidate. ``flips``: each is averaged with the answer to the
    patient's mirror image and the mirrored noise. ``conditions``: those to use of what they have; None: all.
    """
    names = [m for m in CONDITIONS if m in patient.present and (conditions is None or m in conditions)]
    doses = []
    for mirrored in (False, True) if flips else (False,):
        sight = seen_from(patient, View(mirrored=mirrored))
        dose = _of_sight(network, patient, sight, names, steps, candidates, seed, mirrored, precision)
        doses.append(dose.flip(-1) if mirrored else dose)
    return np.asarray(torch.stack(doses).mean(0).numpy() * np.float32(patient.unit_gy), dtype=np.float32)


def _of_sight(
    network: PyramidDiT,
    patient: PatientChannels,
    sight: Sight,
    names: Sequence[str],
    steps: int,
    candidates: int,
    seed: int,
    mirrored: bool,
    precision: str,
) -> Tensor:
    device = network.spacing.weight.device
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    inside = (sight.stack[..., patient.layout.index("body")] > 0.5).to(device)
    eps = plan_noise((candidates, 1, *inside.shape), torch.Generator().manual_seed(seed))
    x = (eps.flip(-1) if mirrored else eps).to(device) * inside
    with autocast(device, precision):
        seen = network.remember(conditions_of(sight, patient.layout, names, device, dtype))
        if steps == 1:
            x0 = _clean(network, seen, x[:1], torch.ones(1, device=device), inside).expand(candidates, -1, -1, -1, -1)
        else:
            for now, then in pairwise(shift_time(torch.linspace(1.0, 0.0, steps + 1), SHIFT).to(device)):
                t_b = now.expand(candidates)
                x0 = _clean(network, seen, x, t_b, inside)
                _, noise = recover(x, x0, t_b, "x0")
                x, _ = add_noise(x0, noise, then.expand(candidates))
    mean, unit = SCALE["dose"]
    dose = ((x0[:, 0] * unit + mean) * inside).clamp_min(0.0).cpu()
    z, y, w = (slice(low, low + n) for low, n in zip(sight.low, patient.stack.shape, strict=False))
    return dose[:, z, y, w]


def _clean(network: PyramidDiT, seen: Seen, x: Tensor, t_b: Tensor, inside: Tensor) -> Tensor:
    """The network's estimate of the clean target, which is of the body alone."""
    return network.denoise(seen, "dose", x, t_b) * inside


def on_grid(dose_zyx: NDArray[np.float32], patient: PatientChannels, shape: Sequence[int]) -> NDArray[np.float32]:
    """(..., z, y, x) of the patient's box on the whole grid of ``shape``, 0 elsewhere."""
    out = np.zeros((*dose_zyx.shape[:-3], *shape), dtype=np.float32)
    z, y, x = patient.slices
    out[..., z, y, x] = dose_zyx
    return out
