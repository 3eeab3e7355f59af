"""Move a case to a coarser grid and its dose back, so that a model predicts at the voxel size it was trained at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared_model.diffusion.modalities import AIR_HU
from shared_model.patient.case import Case, Mask, Volume
from shared_model.patient.geometry import Grid, Resampler, back_project, masked_average

# Of z, y, x: voxels.
Counts = tuple[int, int, int]
AT_ONCE: Counts = (0, 0, 0)


def starts(factors: Counts) -> tuple[Counts, ...]:
    """How many voxels before the case's first the coarse grids begin that a mean is taken over.

    The second is moved by half a coarse voxel along every axis that is merged: it sees what the first averages over
    otherwise, and errs otherwise (docs/decisions/0041-predict-at-training-voxels.md). Only one if nothing is merged.
    """
    half = (factors[0] // 2, factors[1] // 2, factors[2] // 2)
    return (AT_ONCE, half) if any(half) else (AT_ONCE,)


def coarsen(case: Case, factors: Counts, start: Counts = AT_ONCE) -> Case:
    """The case on coarser voxels, each of ``factors`` (z, y, x) of its own. The same case if all factors are 1.

    ``start``: how many of its voxels before the first one the coarse grid begins.
    A structure gets the voxels that it fills by half or more. If there are none, it gets those that it touches. The
    body gets all voxels that it touches, so that no dose is cut off. Dose is averaged inside the body.
    """
    if factors == (1, 1, 1):
        return case
    grid = _grid(case.grid, factors, start)
    to = Resampler(case.grid, grid)
    body = torch.from_numpy(case.body.astype(np.float32))

    def mean(volume: Volume | None, fill: float = 0.0) -> Volume | None:
        return None if volume is None else np.asarray(to.average(torch.from_numpy(volume), fill).numpy())

    dose = None if case.dose_gy is None else masked_average(torch.from_numpy(case.dose_gy), body, to).numpy()
    return Case(
        case_id=case.case_id,
        grid=grid,
        body=(to.average(body) > 1e-4).numpy(),
        structures={name: _coarse_mask(mask, to) for name, mask in case.structures.items()},
        prescriptions_gy=case.prescriptions_gy,
        ct_hu=mean(case.ct_hu, AIR_HU),
        beam_plate=mean(case.beam_plate),
        angle_plate=mean(case.angle_plate),
        gantry_deg=case.gantry_deg,
        dose_gy=None if dose is None else np.clip(dose, 0.0, None),
        cut_by_dose=case.cut_by_dose,
    )


def refine(dose_gy: Tensor, coarse: Case, fine: Case) -> Tensor:
    """Move a dose (z, y, x) from the grid of ``coarse`` to that of ``fine`` by back-projection. 0 outside the body."""
    if coarse.grid == fine.grid:
        return dose_gy
    return back_project(dose_gy, torch.from_numpy(fine.body), fine.grid, coarse.grid)


def _grid(grid: Grid, factors: Counts, start: Counts) -> Grid:
    """Grid of blocks of ``factors`` voxels, from ``start`` voxels before the volume; its end may exceed the volume."""
    shape = tuple(-(-(n + a) // k) for n, a, k in zip(grid.shape, start, factors, strict=True))
    spacing = tuple(s * k for s, k in zip(grid.spacing_mm, factors, strict=True))
    ahead = tuple(0.5 * (k - 1) - a for a, k in zip(start, factors, strict=True))
    origin = tuple(o + n * s for o, s, n in zip(grid.origin_mm, grid.spacing_mm, ahead, strict=True))
    return Grid((shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]))


def _coarse_mask(mask: NDArray[np.bool_], to: Resampler) -> Mask:
    share = to.average(torch.from_numpy(mask.astype(np.float32))).numpy()
    coarse: Mask = share >= 0.5 - 1e-4
    return coarse if coarse.any() else share > 1e-4
