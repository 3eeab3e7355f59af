"""Each beam by itself: what its rays meet, dimmed with depth, from the targets' shadow in their own slices.

The physics is that of light.py, which sums it over nine even angles. Here every beam keeps its own
volume, so a network sees through which organs the light of one direction comes. Any number of beams, at any angles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared_model.channels import light
from shared_model.channels.layout import BEAM
from shared_model.patient.case import Mask
from shared_model.patient.geometry import Grid

# Organ on a ray that counts as one unit, mm.
ORGAN_MM = 50.0


def each_beam(
    body_zyx: Mask,
    prescription_zyx: NDArray[np.floating],
    organs_zyx: Mask,
    grid: Grid,
    gantry_deg: Sequence[float],
) -> NDArray[np.float32]:
    """(beams, len(BEAM), z, y, x) of beams from ``gantry_deg`` (IEC 61217), about 0 to 2, 0 outside the body.

    shaped: highest relative prescription on the ray, dimmed with depth; open: the same of a beam without leaves;
    target_on_ray: target thickness on the ray, dimmed, per light.THICK_MM; organ_on_ray: thickness of organs outside
    the targets on the ray, per ORGAN_MM, where the beam is open.
    """
    parts = [body_zyx, prescription_zyx, prescription_zyx > 0, organs_zyx & (prescription_zyx == 0)]
    volumes = torch.stack([torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts])
    # light.py counts its angles the other way round.
    beams = [_beam(volumes, grid, -float(np.deg2rad(gantry))) for gantry in gantry_deg]
    found = torch.stack(beams) if beams else torch.zeros(0, len(BEAM), *grid.shape)
    return np.asarray((found * volumes[0]).numpy(), dtype=np.float32)


def _beam(volumes: Tensor, grid: Grid, angle: float) -> Tensor:
    """(4, z, y, x) of one beam."""
    body, level, target, organ = light.turn(volumes, grid, angle)
    dimmed = torch.exp(-light.PER_MM * light.PIXEL_MM * body.cumsum(1))
    opening = torch.stack([level, target]).amax(2, keepdim=True)
    # The edge of a leaf: over three pixels.
    edged = F.avg_pool2d(opening.flatten(0, 1)[:, None], (1, 3), 1, (0, 1))[:, 0].reshape(opening.shape)
    highest, passing = edged.expand(-1, -1, body.shape[1], -1)
    thick = (target.sum(1, keepdim=True) * (light.PIXEL_MM / light.THICK_MM)).expand_as(body)
    spared = (organ.sum(1, keepdim=True) * (light.PIXEL_MM / ORGAN_MM)).expand_as(body)
    found = torch.stack([highest * dimmed, dimmed, thick * dimmed, spared * passing])
    return light.turn_back(found, grid, angle)
