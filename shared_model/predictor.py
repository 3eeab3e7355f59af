"""Dose prediction: conditions of one Case -> dose in Gy on the case's grid."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from shared_model.base import base_gy
from shared_model.case import CONDITIONS, Case, Volume
from shared_model.diffusion import sample_ddim
from shared_model.dit import Any2AnyDiT
from shared_model.latents import decode
from shared_model.modalities import Example, dose_gy, example
from shared_model.spec import ModelSpec


def noise_generator(seed: int, *key: str) -> torch.Generator:
    """A generator keyed by the seed and names (site, round, patient), so that draws depend on nothing else."""
    digest = hashlib.sha256("/".join((str(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def sample_dose(
    model: Any2AnyDiT, patient: Example, *, precision: str, steps: int = 1, candidates: int = 1, seed: int = 0
) -> Tensor:
    """Sampled, normalised dose volumes (K, z, y, x) on the training grid, all conditions that the patient has."""
    conditions = {m: patient.latents[m].expand(candidates, -1, -1, -1, -1) for m in CONDITIONS if m in patient.latents}
    some = next(iter(patient.latents.values()))
    generator = noise_generator(seed, "sample", patient.case_id)
    noise = torch.randn((candidates, *some.shape), generator=generator)

    def velocity(x_t: Tensor, t_b: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = model(conditions, "dose", x_t, t_b)
        return torch.as_tensor(out, dtype=torch.float32)

    return decode(sample_ddim(velocity, noise, steps))


def predict_dose(
    model: Any2AnyDiT,
    case: Case,
    spec: ModelSpec,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    base: Volume | None = None,
) -> Tensor:
    """Mean of ``candidates`` predicted doses, (z, y, x) Gy on the case's grid, 0 outside the body.

    ``base`` spares computing the base dose of ``spec`` anew (shared_model/base.py).
    """
    base = base_gy(case, spec) if base is None else base
    patient = example(case, spec.shape, base)
    drawn = sample_dose(model, patient, precision=spec.precision, steps=steps, candidates=candidates, seed=seed)
    return dose_gy(drawn.mean(0), case, patient.grid, base)
