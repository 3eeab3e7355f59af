"""Dose of a case on its own grid: asked of the network near the voxel size that it was trained at, and brought back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shared_model.channels.volumes import patient_channels
from shared_model.forms.volume_sampling import on_grid, predicted
from shared_model.network.pyramid import USUAL_MM, PyramidDiT
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.prediction.regrid import coarsen, refine


def case_dose(
    network: PyramidDiT,
    case: Case,
    *,
    steps: int = 1,
    candidates: int = 1,
    seed: int = 0,
    flips: bool = True,
    conditions: Sequence[str] | None = None,
    precision: str = "bf16",
) -> NDArray[np.float32]:
    """(candidates, z, y, x) doses in Gy on the case's grid, 0 outside the body; settings as in sampling.predicted.

    A finer grid than the network's usual one is coarsen by whole factors first; the dose then comes back by iterative
    back-projection, which keeps the coarse voxels' means.
    """
    coarse = coarsen(case, factors(case.grid))
    patient = patient_channels(coarse)
    doses = predicted(
        network,
        patient,
        steps=steps,
        candidates=candidates,
        seed=seed,
        flips=flips,
        conditions=conditions,
        precision=precision,
    )
    whole = on_grid(doses, patient, coarse.grid.shape)
    if coarse.grid == case.grid:
        return whole
    return np.stack([np.asarray(refine(torch.from_numpy(dose), coarse, case).numpy()) for dose in whole])


def factors(grid: Grid) -> tuple[int, int, int]:
    """How many voxels (z, y, x) of ``grid`` make one of about the network's usual size."""
    z, y, x = (max(1, round(usual / mm)) for usual, mm in zip(USUAL_MM, grid.spacing_mm, strict=True))
    return z, y, x
