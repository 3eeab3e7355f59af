"""One vector a patient: plans, sides, timesteps and noise averaged first, clipped after, one patient at a time.

We loop over patients, with each patient's views as one batch, instead of splitting a batch of patients with hooks. The
loop is exact for every module, holds one gradient in memory whatever the number of patients, and is as fast on a CPU
(docs/decisions/0020-patient-gradients.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.site.config import SiteConfig
from client.training.base import readable_rows
from client.training.train import data_part, loading, model_at, readable_patients, stage_parameters
from privacy.dp.clipping import clip_to_norm, flatten_gradient
from privacy.dp.noise import Integers, NoiseStream
from privacy.dp.release import clipped_sum
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import TrainTask
from shared_model.base.interface import base_of
from shared_model.base.model import DoseModel, base_weights
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from shared_model.forms.interface import Lesson, form_of
from shared_model.network.device import memory_named
from shared_model.network.seeding import noise_generator
from shared_model.network.spec import ModelSpec

SITE_LOG = logging.getLogger("fedkt3d.site")  # stays at the site (client/node/site_log.py)
# Loss of one patient, an average over their views; None if there is nothing to learn from this patient.
PatientLoss = Callable[[int, torch.Generator], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Patients:
    """A site's patients as a loss each, and the parameters that the stage trains, in the order of the vector."""

    count: int
    loss: PatientLoss
    parameters: Sequence[nn.Parameter]
    site: SiteConfig
    task: TrainTask
    terms: PrivacyTerms

    @property
    def size(self) -> int:
        """Numbers in a gradient."""
        return sum(p.numel() for p in self.parameters)

    def gradient(self, patient: int, step: int = 0) -> Tensor:
        """Clipped vector of one patient, (d,) float32; zero if it is not finite or there is nothing to learn."""
        return clip_to_norm(self._vector(patient, step), self.terms.clip)

    def descent_sum(self, stream: NoiseStream, step: int = 0) -> Integers:
        """Sum of minus the clipped vectors of the patients drawn for a step, (d,) integers on the fine grid."""
        total = clipped_sum(self.count, self.size, lambda i: self._vector(i, step).numpy(), self.terms, stream)
        return np.negative(total, out=total)

    def _vector(self, patient: int, step: int) -> Tensor:
        """A patient's gradient, or the mean of those along a path of K steps on this patient alone, (d,) not clipped.

        The model is afterwards what it was before, so that no patient's vector depends on another patient.
        """
        count = self.terms.local_steps
        if count == 1:
            return self._gradient(patient, step)
        start = [p.detach().clone() for p in self.parameters]
        total = torch.zeros(self.size)
        try:
            for number in range(count):
                found = self._gradient(patient, step * count + number)
                total += found
                with torch.no_grad():
                    parts = found.split([p.numel() for p in self.parameters])
                    for parameter, part in zip(self.parameters, parts, strict=True):
                        parameter.sub_(part.view_as(parameter).to(parameter), alpha=self.terms.local_lr)
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, start, strict=True):
                    parameter.copy_(value)
        return total / count

    def parts(self, patient: int, step: int = 0) -> Sequence[Tensor | None]:
        """One patient's gradient as the model's device computes it, a tensor for each of ``parameters``; not clipped.

        None: no part in the loss. Raises InputError if the device's memory does not do.
        """
        # The run's seed draws the views: they are not secret and not part of the noise.
        generator = noise_generator(
            self.task.seed, self.site.site, str(self.task.round), str(step), self.site.train[self._first(patient)]
        )
        with memory_named(self.parameters[0].device, "computing one patient's gradient"):
            loss = self.loss(patient, generator)
            if loss is None:
                return [None] * len(self.parameters)
            return torch.autograd.grad(loss, list(self.parameters), allow_unused=True)

    def _gradient(self, patient: int, step: int) -> Tensor:
        sizes = [p.numel() for p in self.parameters]
        try:
            return flatten_gradient(self.parts(patient, step), sizes)
        # One patient must not decide whether the site answers, nor may a body too large for the device: a site that
        # stops would tell that such a patient is there. Only the site's own log says it.
        except Exception as error:
            told = str(error) if isinstance(error, InputError) else type(error).__name__
            SITE_LOG.error("a patient counts as zero (%s)", told, exc_info=error)
            return torch.zeros(sum(sizes))

    def _first(self, patient: int) -> int:
        return self.site.patients()[patient][0]


def patients_of(site: SiteConfig, spec: ModelSpec, vector: Vector, task: TrainTask, terms: PrivacyTerms) -> Patients:
    """A site's training patients under the model at ``vector`` (d,). A case that cannot be read gives nothing."""
    return patients_under(model_at(site, spec, vector), site, spec, task, terms)


def patients_under(
    model: DoseModel, site: SiteConfig, spec: ModelSpec, task: TrainTask, terms: PrivacyTerms
) -> Patients:
    """As ``patients_of``, under a model of ``spec`` that is at hand, wherever it lies."""
    parameters = stage_parameters(model, task.stage)
    of_base = task.stage == "base"
    loss = _base_loss(site, spec, model) if of_base else _velocity_loss(site, spec, model, task, terms)
    return Patients(count=len(site.patients()), loss=loss, parameters=parameters, site=site, task=task, terms=terms)


def _velocity_loss(
    site: SiteConfig, spec: ModelSpec, model: DoseModel, task: TrainTask, terms: PrivacyTerms
) -> PatientLoss:
    form, lesson = form_of(spec), Lesson(stage=task.stage, least_visible=task.least_visible)
    with loading:
        encoded = readable_patients(site, data_part(spec), base_weights(model))
    patients = site.patients()

    def loss(patient: int, generator: torch.Generator) -> Tensor | None:
        cases = [case for case in patients[patient] if encoded[case]]
        views = _views(cases, encoded, terms.views, generator) if cases else []
        if task.stage == "dose":
            # Nothing can be learned from a patient without a dose. A refusal would reveal that the patient is there.
            views = [view for view in views if form.has_dose(view)]
            batches = [views] if views else []
        else:
            batches = [[view] for view in views]  # a target and conditions of its own each
        losses = [_sum(form.losses(model.network, batch, lesson, generator)) for batch in batches]
        return torch.stack(losses).mean() if losses else None

    return loss


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()


def _views(
    cases: Sequence[int], encoded: Sequence[tuple[Any, ...]], count: int, generator: torch.Generator
) -> list[Any]:
    """Return ``count`` of a patient's plans and sides; numbers of uses differ by one at most."""
    ways = [encoded[case][side] for side in range(len(encoded[cases[0]])) for case in cases]
    start = int(torch.randint(len(ways), (), generator=generator))
    return [ways[(start + i) % len(ways)] for i in range(count)]


def _base_loss(site: SiteConfig, spec: ModelSpec, model: DoseModel) -> PatientLoss:
    base, network = base_of(spec), model.base
    assert network is not None
    with loading:
        rows = readable_rows(site, data_part(spec))
    patients = site.patients()

    def loss(patient: int, generator: torch.Generator) -> Tensor | None:
        cases = [of for case in patients[patient] if (of := rows[case]) is not None]
        return base.patient_loss(network, cases) if cases else None

    return loss
