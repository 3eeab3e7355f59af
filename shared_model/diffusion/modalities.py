"""Turn a Case into the seven normalised volumes that the model sees, and a predicted volume back into dose in Gy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shared_model.diffusion.latents import RESIDUAL, Haar, Latents
from shared_model.patient.anatomy import OAR_NAMES, mirror_name
from shared_model.patient.case import MODALITIES, Case, Volume
from shared_model.patient.geometry import Grid, Resampler, back_project, masked_average, roi_grid

# (mean, standard deviation) of each modality on a body-sized grid. They are public round figures, the same at every
# site. Haar latents are orthonormal, so this also normalises them.
NORMALISATION: Mapping[str, tuple[float, float]] = {
    "dose": (8.0, 18.0),
    "ct": (-700.0, 450.0),
    "ptv": (2.5, 12.0),
    "oar": (0.05, 0.4),
    "body": (0.3, 0.45),
    "beam": (0.25, 0.3),
    "angle": (0.02, 0.1),
}
HAAR = Haar(scale={**NORMALISATION, RESIDUAL: (0.0, 3.0)})
CT_RANGE_HU = (-1000.0, 2000.0)
AIR_HU = -1000.0


@dataclass(frozen=True, kw_only=True)
class Example:
    """One patient ready for the model. ``latents``: modality -> (C, z, y, x), only the modalities that are present.

    ``estimate``: latents (C, z, y, x) of an estimate of the dose, in the scale of dose. If there is one, the modality
    ``dose`` is the dose minus that estimate.
    """

    case_id: str
    grid: Grid
    latents: Mapping[str, Tensor]
    estimate: Tensor | None = None


def volumes(case: Case, grid: Grid, base_gy: Volume | None = None) -> dict[str, Tensor]:
    """Resample a case to ``grid``: modality -> (z, y, x) in natural units. Absent modalities are left out.

    Dose, or dose minus ``base_gy`` (z, y, x) on the case's grid, is averaged only inside the body, so that the body's
    edge keeps its dose. Everything else is averaged over the whole voxel.
    """
    to = Resampler(case.grid, grid)
    body = torch.from_numpy(case.body.astype(np.float32))
    out = {"body": to.average(body)}
    if case.dose_gy is not None:
        learned = case.dose_gy if base_gy is None else case.dose_gy - base_gy
        out["dose"] = masked_average(torch.from_numpy(learned), body, to)
    if case.ct_hu is not None:
        out["ct"] = to.average(torch.from_numpy(case.ct_hu).clamp(*CT_RANGE_HU), fill=AIR_HU)
    if case.targets:
        out["ptv"] = to.average(torch.from_numpy(case.ptv_gy()))
    if any(name in case.structures for name in OAR_NAMES):
        out["oar"] = to.average(torch.from_numpy(case.oar_code()))
    if case.beam_plate is not None:
        out["beam"] = to.average(torch.from_numpy(case.beam_plate))
    if case.angle_plate is not None:
        out["angle"] = to.average(torch.from_numpy(case.angle_plate))
    return {m: out[m] for m in MODALITIES if m in out}


def scale_of(modality: str, latents: Latents, *, residual: bool) -> tuple[float, float]:
    """(offset, unit) that encode a modality. ``residual``: ``dose`` means dose minus base."""
    return latents.scale[RESIDUAL if residual and modality == "dose" else modality]


def example(case: Case, shape: tuple[int, int, int], latents: Latents = HAAR, base_gy: Volume | None = None) -> Example:
    """Encode a case on a grid of ``shape`` that covers its body. ``dose`` is dose minus ``base_gy``, if given."""
    grid = roi_grid(case.body, case.grid, shape)
    encoded = {}
    for modality, volume in volumes(case, grid, base_gy).items():
        encoded[modality] = _encode(volume, scale_of(modality, latents, residual=base_gy is not None), latents)
    estimate = None
    if base_gy is not None:
        body = torch.from_numpy(case.body.astype(np.float32))
        averaged = masked_average(torch.from_numpy(base_gy), body, Resampler(case.grid, grid))
        estimate = _encode(averaged, scale_of("dose", latents, residual=False), latents)
    return Example(case_id=case.case_id, grid=grid, latents=encoded, estimate=estimate)


def _encode(volume_zyx: Tensor, scale: tuple[float, float], latents: Latents) -> Tensor:
    offset, unit = scale
    return latents.encode(((volume_zyx - offset) / unit)[None])[0]


def dose_gy(
    volume_zyx: Tensor, case: Case, grid: Grid, latents: Latents = HAAR, base_gy: Volume | None = None
) -> Tensor:
    """Turn a predicted dose on ``grid``, in the scale of ``latents``, into Gy on the case's grid. 0 outside the body.

    With ``base_gy`` (z, y, x) on the case's grid the prediction is a difference of either sign. Then only the sum of
    both is cut off at 0.
    """
    offset, unit = scale_of("dose", latents, residual=base_gy is not None)
    body = torch.from_numpy(case.body)
    if base_gy is None:
        return back_project((volume_zyx * unit + offset).clamp_min(0.0), body, case.grid, grid)
    difference = back_project(volume_zyx * unit + offset, body, case.grid, grid, lowest=None)
    return (torch.from_numpy(base_gy) + difference).clamp_min(0.0) * body


def mirror(case: Case) -> Case:
    """Swap left and right of a case. Paired organs swap names. Plates and dose are mirrored with the anatomy."""

    def flip(volume: Volume | None) -> Volume | None:
        return None if volume is None else np.ascontiguousarray(volume[:, :, ::-1])

    return replace(
        case,
        body=np.ascontiguousarray(case.body[:, :, ::-1]),
        structures={mirror_name(n): np.ascontiguousarray(m[:, :, ::-1]) for n, m in case.structures.items()},
        ct_hu=flip(case.ct_hu),
        beam_plate=flip(case.beam_plate),
        angle_plate=flip(case.angle_plate),
        gantry_deg=tuple(-angle % 360.0 for angle in case.gantry_deg),
        dose_gy=flip(case.dose_gy),
        cut_by_dose=tuple(map(mirror_name, case.cut_by_dose)),
    )
