"""Light features: how much light from nine evenly spaced gantry angles meets in a voxel, dimmed with depth.

They show where coplanar beams would leave dose, and need no treatment plan. In each slice a beam's opening is the
shadow of the targets in that slice, as if a fan of parallel rays were shaped to them. Nine even angles stand for any
coplanar delivery, arcs included. Left and right are treated alike.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared_model.patient.case import Case, Mask
from shared_model.patient.geometry import Grid

NAMES: tuple[str, ...] = ("light", "light_high", "crossing", "light_thick", "light_most", "light_blurred")
BEAMS = 9
# Attenuation of a 6 MV beam in water beyond the maximum, per mm, as a round figure.
PER_MM = 0.0045
# Pixel of the turned slices, in which rays run down the rows.
PIXEL_MM = 3.0
# Thickness of target that counts as one unit of fluence.
THICK_MM = 50.0
# Light is divided by its mean in the high target, but by no less than this (a target of a few voxels).
LEAST_MEAN = 0.05


def light_features(case: Case, levels_zyx: NDArray[np.floating], high_zyx: Mask) -> NDArray[np.float32]:
    """Features (n, 6), columns NAMES, of the body's voxels in C order.

    They use the targets' relative levels and the high target. light: the highest level on the ray, dimmed. light_high:
    the same for only the high target. crossing: share of beams that pass. light_thick: fluence by the target's
    thickness along the ray. light_most: the strongest beam. light_blurred: light over 3 x 5 x 5 voxels. light,
    light_high and light_thick have mean 1 in the high target.
    """
    body, levels, high = (torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (case.body, levels_zyx, high_zyx))
    volumes = torch.stack([body, levels, high, (levels > 0).float()])
    beams = torch.stack([_beam(volumes, case.grid, 2 * np.pi * k / BEAMS) for k in range(BEAMS)])
    light, light_high, crossing, thick = beams.mean(0)
    light, light_high, thick = (v / _mean_in(v, high) for v in (light, light_high, thick))
    blurred = F.avg_pool3d(light[None, None], (3, 5, 5), 1, (1, 2, 2))[0, 0]
    columns = [light, light_high, crossing, thick, beams[:, 0].amax(0), blurred]
    return np.stack([column.numpy()[case.body] for column in columns], axis=1)


def _mean_in(volume: Tensor, mask: Tensor) -> Tensor:
    return ((volume * mask).sum() / mask.sum().clamp_min(1)).clamp_min(LEAST_MEAN)


def _beam(volumes: Tensor, grid: Grid, angle: float) -> Tensor:
    """Level, high target, passing and thickness of one beam, (4, Z, Y, X). All but passing are dimmed with depth."""
    body, *targets = turn(volumes, grid, angle)
    dimmed = torch.exp(-PER_MM * PIXEL_MM * body.cumsum(1))
    opening = torch.stack(targets).amax(2, keepdim=True)
    # The edge of a leaf is blurred over three pixels.
    edged = F.avg_pool2d(opening.flatten(0, 1)[:, None], (1, 3), 1, (0, 1))[:, 0].reshape(opening.shape)
    level, high, passing = edged.expand(-1, -1, body.shape[1], -1)
    thick = (targets[2].sum(1, keepdim=True) * (PIXEL_MM / THICK_MM)).expand_as(body)
    return turn_back(torch.stack([level * dimmed, high * dimmed, passing, thick * dimmed]), grid, angle)


def turn(volumes: Tensor, grid: Grid, angle: float) -> Tensor:
    """Turn the slices of volumes (C, Z, Y, X) about their middle -> (C, Z, N, N), square pixels, rays down the rows."""
    (_, rows, columns), (_, dy, dx) = grid.shape, grid.spacing_mm
    count = _pixels(grid)
    mm = (torch.arange(count) + 0.5 - count / 2) * PIXEL_MM
    v, u = torch.meshgrid(mm, mm, indexing="ij")
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    where = torch.stack([(sin * v + cos * u) / (columns * dx / 2), (cos * v - sin * u) / (rows * dy / 2)], -1)
    return _sample(volumes, where)


def turn_back(volumes: Tensor, grid: Grid, angle: float) -> Tensor:
    """Inverse of ``turn``: (C, Z, N, N) -> (C, Z, Y, X)."""
    (_, rows, columns), (_, dy, dx) = grid.shape, grid.spacing_mm
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5 - rows / 2) * dy, (torch.arange(columns) + 0.5 - columns / 2) * dx, indexing="ij"
    )
    half = _pixels(grid) * PIXEL_MM / 2
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return _sample(volumes, torch.stack([(cos * x - sin * y) / half, (cos * y + sin * x) / half], -1))


def _pixels(grid: Grid) -> int:
    return int(np.ceil(max(n * mm for n, mm in zip(grid.shape[1:], grid.spacing_mm[1:], strict=True)) / PIXEL_MM))


def _sample(volumes: Tensor, where: Tensor) -> Tensor:
    flat: Tensor = F.grid_sample(volumes.flatten(0, 1)[None], where[None].float(), align_corners=False)
    return flat[0].reshape(*volumes.shape[:2], *where.shape[:2])
