"""Training under differential privacy at a site, one function a mode (privacy/dp/terms.py).

Noise and the draw of patients come from the operating system; a request cannot influence them. Nothing here returns a
loss, a count or a time: each of them would be another release.
"""

from __future__ import annotations

import torch

from client.site.config import SiteConfig
from client.training.patient_gradients import patients_of
from client.training.train import resident_model, train_round
from privacy.dp.encoding import FINE, Ring, fine_integers
from privacy.dp.noise import NoiseStream, integer_gaussian
from privacy.dp.release import release
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import TrainTask
from shared_model.adapter.manifest import pack, stage_mask
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec


def private_release(site: SiteConfig, spec: ModelSpec, vector: Vector, task: TrainTask, terms: PrivacyTerms) -> Ring:
    """What a site releases in a round of mode shared or site: noised, coarsened, (d of the stage,) ring numbers."""
    stream = NoiseStream()
    if terms.mode == "site":
        update, _ = train_round(site, spec, vector, task)
        total = fine_integers(update[stage_mask(spec, task.stage)], terms.clip, stream)
    else:
        total = patients_of(site, spec, vector, task, terms).descent_sum(stream)
    return release(total, terms, stream)


def local_round(site: SiteConfig, spec: ModelSpec, vector: Vector, task: TrainTask, terms: PrivacyTerms) -> Vector:
    """DP-SGD (Abadi et al. 2016, arXiv:1607.00133) of ``task.local_steps`` steps with AdamW; local minus global (d,).

    Each step divides by the expected number of patients, never by how many were drawn.
    """
    patients = patients_of(site, spec, vector, task, terms)
    terms.check_size(patients.size)
    stream = NoiseStream()
    optimiser = torch.optim.AdamW(list(patients.parameters), lr=task.lr, weight_decay=task.weight_decay)
    # From the declared cohort, not from this site's own count, which changes with one patient.
    expected = terms.q * terms.cohort / terms.sites
    unit = terms.clip / (FINE * expected)
    for step in range(task.local_steps):
        descent = patients.descent_sum(stream, step) + integer_gaussian(terms.z * FINE, patients.size, stream)
        flat = torch.from_numpy(descent * -unit).float()
        parts = flat.split([p.numel() for p in patients.parameters])
        for parameter, part in zip(patients.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.device)
        optimiser.step()
    return pack(resident_model(spec, site.device)) - vector
