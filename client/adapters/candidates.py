"""Candidates of a policy for one patient, and the noised states at which ScardNFT compares two policies on them.

A site's dose is what its policy predicts. Where that is a mean in one step (the U-shaped network), candidates are that
mean moved as plans differ (shared_model/tradeoff): what trains is what will predict. Samples of the diffusion
network differ by a tenth of that and not as plans do (docs/decisions/0059-tradeoffs.md). Other forms of the model draw
their candidates by its sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.adapters.patients import ScoredPatient
from client.adapters.settings import AlignSettings
from shared_model.channels.volumes import PatientChannels
from shared_model.forms.interface import Denoiser
from shared_model.forms.volume_sampling import clean_of
from shared_model.network.schedule import add_noise, recover, sampling_times
from shared_model.tradeoff.patient import TradeoffPatient
from shared_model.tradeoff.saved import Tradeoff
from shared_model.tradeoff.steer import candidates


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Samples noised to one time: x_t and t_b of b states, v of k samples; b is k, or 1 where it is noise alone."""

    x_t: Tensor
    t_b: Tensor
    v: Tensor


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A patient's k candidates: clean samples (k, C, z, y, x), doses (k, z, y, x) Gy on the case's grid, and states.

    ``v_old``: the velocities of the policy that drew them, at each state.
    """

    x0: Tensor
    doses_gy: Tensor
    states: Sequence[Noised]
    v_old: Sequence[Tensor]


# From the policy's network for a patient to its candidates; all randomness is the generator's.
Draw = Callable[[Denoiser, ScoredPatient, AlignSettings, torch.Generator], Candidates]


def drawing(mean_in_one_step: bool, tradeoff: Tradeoff | None) -> Draw:
    """How a form's candidates are drawn. ``tradeoff``: None where no network knows the model's site of the body."""
    if tradeoff is None or not mean_in_one_step:
        return _sampled
    found = tradeoff

    def plan_like(
        network: Denoiser, patient: ScoredPatient, settings: AlignSettings, generator: torch.Generator
    ) -> Candidates:
        return _moved(found, network, patient, settings, generator)

    return plan_like


@torch.no_grad()
def _sampled(
    network: Denoiser, patient: ScoredPatient, settings: AlignSettings, generator: torch.Generator
) -> Candidates:
    """Samples of ``candidate_steps`` steps, compared at the sampler's own noise times."""
    form = patient.form
    # Pairs have opposite noise: what roughness costs the score is in both and cancels in their difference.
    half = form.noise(patient.encoded, (settings.candidates + 1) // 2, generator)
    noise = torch.cat([half, -half])[: settings.candidates]
    x0 = form.sampled(network, noise, settings.candidate_steps)
    states = [
        noised(patient, x0, t, generator) for t in sampling_times(settings.candidate_steps, shift=form.shift)[:-1]
    ]
    old = [network(state.x_t, state.t_b) for state in states]
    return Candidates(x0=x0, doses_gy=patient.doses(form.decode(x0)), states=states, v_old=old)


@torch.no_grad()
def _moved(
    tradeoff: Tradeoff, network: Denoiser, patient: ScoredPatient, settings: AlignSettings, generator: torch.Generator
) -> Candidates:
    """The policy's one-step dose moved as plans differ, compared at pure noise, where that dose is made."""
    channels: PatientChannels = patient.encoded
    noise, end = patient.form.noise(channels, 1, generator), torch.ones(1)
    old = network(noise, end)
    mean = patient.doses(patient.form.decode(recover(noise, old, end)[0]))[0]
    about = TradeoffPatient(channels, mean.numpy()[channels.slices])
    doses = candidates(tradeoff, about, settings.candidates, generator, mean.shape)
    x0 = clean_of(doses, channels)
    return Candidates(x0=x0, doses_gy=doses, states=[_noised_by(noise, x0, end[0])], v_old=[old])


def noised(patient: ScoredPatient, x0: Tensor, t: Tensor, generator: torch.Generator) -> Noised:
    """Add noise of time ``t``. At t = 1 the state is noise alone: one draw serves all candidates, at 1/8 the cost."""
    return _noised_by(patient.form.noise(patient.encoded, 1 if float(t) >= 1.0 else len(x0), generator), x0, t)


def _noised_by(eps: Tensor, x0: Tensor, t: Tensor) -> Noised:
    x_t, v = add_noise(x0, eps.expand_as(x0), t.expand(len(x0)))
    return Noised(x_t=eps if float(t) >= 1.0 else x_t, t_b=t.expand(len(eps)), v=v)
