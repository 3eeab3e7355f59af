"""The dose that a card asks for about the shared model's: ScardNFT draws the policy to it (docs/method.md, stage C).

Steering (shared_model/tradeoff/steer.py) finds for one patient what random candidates find slowly. An aligned model
that learns it predicts such a dose in one step, without steering.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client.adapters.patients import ScoredPatient
from shared_model.channels.volumes import PatientChannels
from shared_model.forms.interface import Denoiser
from shared_model.forms.volume_sampling import clean_of
from shared_model.network.schedule import recover
from shared_model.network.seeding import noise_generator
from shared_model.tradeoff.patient import TradeoffPatient
from shared_model.tradeoff.saved import Tradeoff
from shared_model.tradeoff.steer import Steering, steer


def guide(tradeoff: Tradeoff, shared: Denoiser, patient: ScoredPatient) -> Tensor:
    """What the shared network predicts in one step, steered to the patient's card: a clean sample (1, C, z, y, x)."""
    channels: PatientChannels = patient.encoded
    noise, end = patient.form.noise(channels, 1, noise_generator(0, "guide", patient.case.case_id)), torch.ones(1)
    with torch.no_grad():
        mean = patient.doses(patient.form.decode(recover(noise, shared(noise, end), end)[0]))[0]
    about = TradeoffPatient(channels, mean.numpy()[channels.slices])
    with torch.enable_grad():
        steered = steer(tradeoff, about, patient.card, Steering(), tuple(mean.shape))
    return clean_of(steered.dose_gy[None], channels)


def distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of clean samples over its mean absolute value, (): as steep near the guide as far from it."""
    error = made - wanted
    return error.square().mean() / error.detach().abs().mean().clamp_min(1e-5)
