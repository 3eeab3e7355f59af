"""Samples from a PyramidDiT: the mean in one pass, or candidates by DDIM steps from noise.

Conditions are computed once a patient, and once more for their mirror image where flips are averaged. Volumes here are
those of the patient's box, filled up to multiples of the network's stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared_model.channels.layout import SCALE, TARGET_CHANNELS
from shared_model.channels.volumes import PatientChannels
from shared_model.network.device import autocast, compute_dtype, device_of, memory_named, moved
from shared_model.network.pyramid import PyramidDiT
from shared_model.network.schedule import sample_ddim, velocity_of_clean
from shared_model.patient.anatomy import mirror_name
from shared_model.patient.case import CONDITIONS
from shared_model.training.step import conditions_of, plan_noise
from shared_model.training.views import View, frame, seen_from

SHIFT = 6.0


class VolumeDenoiser:
    """The network for one patient, or for their mirror image; gives velocities.

    ``conditions``: those to use of what the patient has; None: all but the target.
    """

    def __init__(
        self,
        network: PyramidDiT,
        patient: PatientChannels,
        target: str = "dose",
        *,
        conditions: Sequence[str] | None = None,
        mirrored: bool = False,
        precision: str = "bf16",
    ) -> None:
        self._network, self._target, self._precision = network, target, precision
        sight = seen_from(patient, View(mirrored=mirrored))
        self.device = device_of(network)
        names = [
            m for m in CONDITIONS if m in patient.present and m != target and (conditions is None or m in conditions)
        ]
        self._inside = None
        if target == "dose":
            self._inside = moved(sight.stack[..., patient.layout.index("body")] > 0.5, self.device)
        dtype = compute_dtype(self.device, precision)
        with autocast(self.device, precision):
            self._seen = network.remember(conditions_of(sight, patient.layout, names, self.device, dtype))

    def clean(self, x_t: Tensor, t_b: Tensor) -> Tensor:
        """The network's estimate of the clean target (k, C, z, y, x) where ``x_t`` lies; dose is of the body alone."""
        with autocast(self.device, self._precision):
            x0 = self._network.denoise(self._seen, self._target, moved(x_t, self.device), moved(t_b, self.device))
        return (x0 if self._inside is None else x0 * self._inside).to(x_t.device)

    def __call__(self, x_t: Tensor, t_b: Tensor) -> Tensor:
        """The velocity (k, C, z, y, x) at states ``x_t`` and noise times (k,)."""
        return velocity_of_clean(x_t, self.clean(x_t, t_b), t_b)


def patient_noise(
    patient: PatientChannels, candidates: int, generator: torch.Generator, target: str = "dose"
) -> Tensor:
    """Noise (candidates, C, z, y, x) in the frame of the patient's box; that of dose is 0 outside the body.

    Candidates are drawn one after the other, so that the first are the same however many are asked for.
    """
    shape, _ = frame(patient.stack.shape[:3])
    one = (1, len(TARGET_CHANNELS[target]), *shape)
    noise = torch.cat([plan_noise(one, generator) for _ in range(candidates)])
    return noise * body_in_frame(patient) if target == "dose" else noise


def body_in_frame(patient: PatientChannels) -> Tensor:
    """1 in the body, 0 elsewhere, (z, y, x) in the frame."""
    sight = seen_from(patient, View())
    return (sight.stack[..., patient.layout.index("body")] > 0.5).float()


@torch.no_grad()
def samples(
    network: PyramidDiT,
    patient: PatientChannels,
    noise: Tensor,
    target: str = "dose",
    *,
    steps: int = 1,
    batch: int = 8,
    flips: bool = False,
    conditions: Sequence[str] | None = None,
    precision: str = "bf16",
) -> Tensor:
    """Clean samples (k, C, z, y, x) of ``target`` from ``noise`` of that shape, on the CPU.

    ``steps`` 1: the network's mean, the same for every candidate. ``flips``: each is averaged with the answer to the
    patient's mirror image and the mirrored noise.
    """
    found = []
    for mirrored in (False, True) if flips else (False,):
        denoiser = VolumeDenoiser(
            network, patient, target, conditions=conditions, mirrored=mirrored, precision=precision
        )
        here = _mirror(noise, patient, target, back=False) if mirrored else noise
        if steps == 1:  # the state says nothing at t = 1
            one = denoiser.clean(here[:1], torch.ones(1))
            x0 = one.expand(len(noise), *one.shape[1:])
        else:
            x0 = _in_batches(denoiser, here, steps, batch)
        found.append(_mirror(x0, patient, target, back=True) if mirrored else x0)
    return torch.stack(found).mean(0)


def _in_batches(denoiser: VolumeDenoiser, noise: Tensor, steps: int, batch: int) -> Tensor:
    """DDIM of all candidates, ``batch`` at once; half as many each time that an accelerator's memory does not do."""
    while batch > 1:
        try:
            return torch.cat([sample_ddim(denoiser, part, steps, shift=SHIFT) for part in noise.split(batch)])
        except torch.OutOfMemoryError:
            batch //= 2
    with memory_named(denoiser.device, "drawing one dose"):
        return torch.cat([sample_ddim(denoiser, part, steps, shift=SHIFT) for part in noise.split(1)])


def _mirror(volume: Tensor, patient: PatientChannels, target: str, *, back: bool) -> Tensor:
    """From a patient's frame to that of their mirror image, or ``back``. Organs that come in pairs change places.

    The box need not lie in the middle of its frame, so what is flipped is also moved by up to one voxel.
    """
    names = [name.removeprefix("is_") for name in TARGET_CHANNELS[target]]
    places = [names.index(mirror_name(name)) if target == "oar" else k for k, name in enumerate(names)]
    shape, low = frame(patient.stack.shape[:3])
    shift = 2 * low[2] - (shape[2] - patient.stack.shape[2])
    flipped = volume.flip(-1).roll(shift, -1) if back else volume.roll(-shift, -1).flip(-1)
    return flipped[:, places]


def in_box(volume: Tensor, patient: PatientChannels) -> Tensor:
    """(..., z, y, x) in the frame -> the patient's box."""
    _, low = frame(patient.stack.shape[:3])
    z, y, x = (slice(a, a + n) for a, n in zip(low, patient.stack.shape, strict=False))
    return volume[..., z, y, x]


def dose_of(x0: Tensor, patient: PatientChannels) -> Tensor:
    """Clean doses (k, 1, z, y, x) in the frame as Gy on the patient's box, (k, z, y, x); 0 outside the body."""
    mean, unit = SCALE["dose"]
    inside = torch.from_numpy(np.asarray(patient.stack[..., patient.layout.index("body")] > 0.5))
    return ((in_box(x0[:, 0], patient) * unit + mean) * inside).clamp_min(0.0) * patient.unit_gy


def clean_of(dose_gy: Tensor, patient: PatientChannels) -> Tensor:
    """Doses (k, z, y, x) Gy on the case's grid as clean samples (k, 1, z, y, x): what ``dose_of`` undoes."""
    mean, unit = SCALE["dose"]
    shape, low = frame(patient.stack.shape[:3])
    there = dose_gy[(slice(None), *patient.slices)]
    after = [(a, whole - n - a) for a, whole, n in zip(low, shape, there.shape[1:], strict=True)]
    filled = F.pad(there / patient.unit_gy, (*after[2], *after[1], *after[0]))
    return (((filled - mean) / unit) * body_in_frame(patient))[:, None]


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
    """(candidates, z, y, x) doses in Gy on the patient's box, 0 outside the body; see ``samples``."""
    noise = patient_noise(patient, candidates, torch.Generator().manual_seed(seed))
    x0 = samples(network, patient, noise, steps=steps, flips=flips, conditions=conditions, precision=precision)
    return np.asarray(dose_of(x0, patient).numpy(), dtype=np.float32)


def on_grid(dose_zyx: NDArray[np.float32], patient: PatientChannels, shape: Sequence[int]) -> NDArray[np.float32]:
    """(..., z, y, x) of the patient's box on the whole grid of ``shape``, 0 elsewhere."""
    out = np.zeros((*dose_zyx.shape[:-3], *shape), dtype=np.float32)
    z, y, x = patient.slices
    out[..., z, y, x] = dose_zyx
    return out
