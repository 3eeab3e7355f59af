"""Scores at OpenKBP's native resolution of doses that were predicted at half of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from client.site.config import SiteConfig
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid, back_project
from simulations.settings.commands import DataSettings


def native_site(data: DataSettings, sites: Sequence[SiteConfig]) -> SiteConfig | None:
    """The scored patients who are also there at native resolution, or None."""
    if data.kind != "openkbp" or not sites:
        return None
    listed = [replace(site, data="openkbp128") for site in sites]
    ids = [c for s in listed for c in s.validation if (s.root / "full128" / f"{c}.npz").is_file()]
    return replace(listed[0], validation=tuple(ids)) if ids else None


def upsampled(dose_zyx: torch.Tensor, coarse: Case, fine: Case) -> torch.Tensor:
    """A dose at half resolution on the grid of ``fine``, by iterative back-projection.

    The half grid's voxels are blocks of 2x2x2 native voxels: its first centre lies half a native voxel inwards.
    """
    step = coarse.grid.spacing_mm
    origin = tuple(o + 0.25 * s for o, s in zip(fine.grid.origin_mm, step, strict=True))
    grid = Grid(coarse.grid.shape, step, (origin[0], origin[1], origin[2]))
    return back_project(dose_zyx, torch.from_numpy(fine.body), fine.grid, grid)
