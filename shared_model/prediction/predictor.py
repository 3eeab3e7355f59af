"""Predict a Case's dose in Gy on its grid, or at coarser voxels and back on its grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shared_model.base.model import DoseModel, base_gy
from shared_model.forms.interface import Drawing, form_of
from shared_model.forms.latents import LatentForm
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume
from shared_model.prediction.regrid import AT_ONCE, Counts, coarsen, refine, starts


def predict_dose(
    model: DoseModel,
    case: Case,
    spec: ModelSpec,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    flips: bool = False,
    shape: tuple[int, int, int] | None = None,
    patient: Any = None,
    base: Volume | None = None,
) -> Tensor:
    """Predict the dose, (z, y, x) Gy on the case's grid, 0 outside the body.

    It is the mean of ``candidates`` samples. ``flips``: each is averaged with that of the mirrored patient, where the
    form of the model does so. ``shape``: the training grid to predict on, of a model that has one; a grid larger
    than ``spec.shape`` is predicted in tiles of that shape. ``patient``: the case already encoded, if there is one.
    ``base``: its base dose, if the caller has it (shared_model/base/model.py). With ``model.adapter=base`` the base
    dose is the prediction.
    """
    drawn, in_gy = _draw(
        model,
        case,
        spec,
        Drawing(steps=steps, flips=flips),
        candidates=candidates,
        seed=seed,
        shape=shape,
        patient=patient,
        base=base,
    )
    return in_gy(drawn.mean(0))


def predict_merged(
    model: DoseModel,
    case: Case,
    spec: ModelSpec,
    factors: Counts,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    twice: bool = True,
) -> Tensor:
    """Predict with ``factors`` (z, y, x) of the case's voxels merged; (z, y, x) Gy on its own grid, 0 outside the body.

    ``twice``: the average of two predictions. Where voxels are merged and the dose is the network's mean, they are on
    two grids half a merged voxel apart, which is worth more than the mirrored patient; else that is the second.
    """
    apart = twice and steps == 1 and form_of(spec).mean_in_one_step
    grids = starts(factors) if apart else (AT_ONCE,)
    total = torch.zeros(case.grid.shape)
    for start in grids:
        asked = coarsen(case, factors, start)
        flips = twice and len(grids) == 1
        dose = predict_dose(model, asked, spec, steps=steps, candidates=candidates, seed=seed, flips=flips)
        total += refine(dose, asked, case)
    return total / len(grids)


def _draw(
    model: DoseModel,
    case: Case,
    spec: ModelSpec,
    how: Drawing,
    *,
    candidates: int,
    seed: int,
    shape: tuple[int, int, int] | None = None,
    patient: Any = None,
    base: Volume | None = None,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Samples (K, ...) in the network's scale, and a function that turns one of them into Gy on the case's grid."""
    base = base_gy(case, spec, model) if base is None else base
    if spec.base_alone and base is not None:  # every sample is the base dose, already in Gy on the case's grid
        return torch.from_numpy(base).expand(candidates, *base.shape), lambda volume: volume
    form = form_of(spec) if shape is None else LatentForm(spec, shape)
    if how.steps == 1 and form.mean_in_one_step:
        candidates = 1
    patient = form.encode(case, base) if patient is None else patient
    drawn = form.draw(model.network, patient, how, candidates=candidates, seed=seed)
    return drawn, lambda one: form.in_gy(one[None], patient, case, base)[0]
