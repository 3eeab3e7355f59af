"""Prediction: the modalities of one Case -> dose in Gy on its grid, or any other modality on the training grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from shared_model.case import BASE, Case, Volume
from shared_model.dit import Any2AnyDiT
from shared_model.latents import Latents
from shared_model.modalities import HAAR, Example, dose_gy, example
from shared_model.prior import load_latents
from shared_model.residual import base_gy
from shared_model.sampler import Sampling, sample_latents
from shared_model.spec import ModelSpec

# Of a dose (z, y, x) in Gy on the case's own grid; higher is better.
Score = Callable[[Tensor], float]


def noise_generator(seed: int, *key: str) -> torch.Generator:
    """A generator keyed by the seed and names (site, round, patient), so that draws depend on nothing else."""
    digest = hashlib.sha256("/".join((str(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sample_volumes(
    model: Any2AnyDiT,
    patient: Example,
    target: str,
    how: Sampling,
    *,
    candidates: int = 1,
    seed: int = 0,
    latents: Latents = HAAR,
) -> Tensor:
    """Volumes (K, z, y, x) of any modality from all the others that the patient has, scaled as ``latents`` are.

    Each candidate's noise is keyed by seed and patient: the first of four candidates is the one of one.
    """
    unseen = {target} if target == "dose" else {target, BASE}
    conditions = {m: v for m, v in patient.latents.items() if m not in unseen}
    some = next(iter(patient.latents.values()))
    key = ("sample", patient.case_id) if target == "dose" else ("sample", patient.case_id, target)
    noise = torch.randn((candidates, *some.shape), generator=noise_generator(seed, *key))
    return latents.decode(sample_latents(model, conditions, target, noise, how))


def predict_dose(
    model: Any2AnyDiT,
    case: Case,
    spec: ModelSpec,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    score: Score | None = None,
    shape: tuple[int, int, int] | None = None,
    patient: Example | None = None,
    base: Volume | None = None,
) -> Tensor:
    """Predicted dose, (z, y, x) Gy on the case's grid, 0 outside the body.

    The mean of ``candidates`` samples; with a ``score`` (higher is better) the one sample that scores best, the first
    of equals. ``shape``: the grid to predict on; tiles of ``spec.shape`` where it is larger. ``patient``: the case as
    encoded before on that grid, if it was; ``base``: its base dose, likewise (shared_model/residual.py). With
    ``model.adapter=base`` the base dose is the prediction.
    """
    base = base_gy(case, spec, model) if base is None else base
    if spec.adapter == "base" and base is not None:
        return torch.from_numpy(base)
    shape = shape or spec.shape
    latents = load_latents(replace(spec, shape=shape))
    if patient is None:
        patient = example(case, shape, latents, base)
    window = latents.cells(spec.shape)
    how = Sampling(steps=steps, precision=spec.precision, window=window, overlap=max(1, min(window) // 4))
    drawn = sample_volumes(model, patient, "dose", how, candidates=candidates, seed=seed, latents=latents)
    if score is None:
        return dose_gy(drawn.mean(0), case, patient.grid, latents, base)
    doses = [dose_gy(one, case, patient.grid, latents, base) for one in drawn]
    return max(doses, key=score)
