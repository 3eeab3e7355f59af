"""Predict a Case's dose in Gy on its grid, or any other modality on the training grid, from its other modalities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shared_model.backbone.prior import load_latents
from shared_model.base.model import DoseModel, base_gy
from shared_model.diffusion.latents import Latents
from shared_model.diffusion.modalities import HAAR, Example, dose_gy, example
from shared_model.diffusion.sampler import Sampling, sample_latents
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume

# The score of a dose (z, y, x) in Gy on the case's own grid. Higher is better.
Score = Callable[[Tensor], float]


def noise_generator(seed: int, *key: str) -> torch.Generator:
    """A random generator whose draws depend only on the seed and the names in ``key`` (site, round, patient)."""
    digest = hashlib.sha256("/".join((str(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sample_volumes(
    network: Any2AnyDiT,
    patient: Example,
    target: str,
    how: Sampling,
    *,
    candidates: int = 1,
    seed: int = 0,
    latents: Latents = HAAR,
) -> Tensor:
    """Predict volumes (K, z, y, x) of ``target`` from all other modalities of the patient, in the scale of ``latents``.

    The noise depends only on seed and patient: asking for four candidates gives as its first the same one as asking
    for one.
    """
    conditions = {m: v for m, v in patient.latents.items() if m != target}
    estimate = patient.estimate if target == "dose" else None
    some = next(iter(patient.latents.values()))
    key = ("sample", patient.case_id) if target == "dose" else ("sample", patient.case_id, target)
    noise = torch.randn((candidates, *some.shape), generator=noise_generator(seed, *key))
    return latents.decode(sample_latents(network, conditions, target, noise, how, estimate))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A dose (z, y, x) in Gy on the case's grid, and how far apart its samples were.

    ``spread_gy``: standard deviation over the samples in each voxel, None if there was only one sample. ``scores``: the
    samples' scores in the order of the samples, empty if they were not scored.
    """

    dose_gy: Tensor
    spread_gy: Tensor | None = None
    scores: tuple[float, ...] = ()


def predict_dose(
    model: DoseModel,
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
    """Predict the dose, (z, y, x) Gy on the case's grid, 0 outside the body.

    Without a ``score`` the dose is the mean of ``candidates`` samples. With one it is the sample that scores highest,
    and the first of these if several do. ``shape``: the grid to predict on. A grid larger than ``spec.shape`` is
    predicted in tiles of that shape. ``patient``: the case already encoded on that grid, if the caller has it.
    ``base``: its base dose, if the caller has it (shared_model/base/model.py). With ``model.adapter=base`` the base
    dose is the prediction.
    """
    drawn, in_gy = _draw(
        model, case, spec, steps=steps, candidates=candidates, seed=seed, shape=shape, patient=patient, base=base
    )
    if score is None:
        return in_gy(drawn.mean(0))
    return max((in_gy(one) for one in drawn), key=score)


def predict_with_spread(
    model: DoseModel,
    case: Case,
    spec: ModelSpec,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    score: Score | None = None,
) -> Prediction:
    """Predict the dose as ``predict_dose`` does, with the spread of its samples.

    Only one sample in Gy is in memory at a time.
    """
    drawn, in_gy = _draw(model, case, spec, steps=steps, candidates=candidates, seed=seed)
    best: Tensor | None = None
    scores: list[float] = []
    mean = squares = torch.zeros(())
    for number, one in enumerate(drawn, 1):
        dose = in_gy(one)
        # Welford (1962): a running mean and the sum of squares about it.
        step = dose - mean
        mean = mean + step / number
        squares = squares + step * (dose - mean)
        if score is not None:
            scores.append(score(dose))
            best = dose if max(scores) == scores[-1] > max(scores[:-1], default=float("-inf")) else best
    spread = (squares / (len(drawn) - 1)).sqrt() if len(drawn) > 1 else None
    dose = in_gy(drawn.mean(0)) if best is None else best
    return Prediction(dose_gy=dose, spread_gy=spread, scores=tuple(scores))


def _draw(
    model: DoseModel,
    case: Case,
    spec: ModelSpec,
    *,
    steps: int,
    candidates: int,
    seed: int,
    shape: tuple[int, int, int] | None = None,
    patient: Example | None = None,
    base: Volume | None = None,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Samples (K, z, y, x) on the training grid, and a function that turns one of them into Gy on the case's grid."""
    base = base_gy(case, spec, model) if base is None else base
    if spec.base_alone and base is not None:  # every sample is the base dose, already in Gy on the case's grid
        return torch.from_numpy(base).expand(candidates, *base.shape), lambda volume: volume
    shape = shape or spec.shape
    latents = load_latents(replace(spec, shape=shape))
    if patient is None:
        patient = example(case, shape, latents, base)
    window = latents.cells(spec.shape)
    how = Sampling(steps=steps, precision=spec.precision, window=window, overlap=max(1, min(window) // 4))
    drawn = sample_volumes(model.network, patient, "dose", how, candidates=candidates, seed=seed, latents=latents)
    grid = patient.grid
    return drawn, lambda volume: dose_gy(volume, case, grid, latents, base)
