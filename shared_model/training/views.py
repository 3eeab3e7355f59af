"""A patient as they might have lain: mirrored, turned about the axis of the couch, on a finer or coarser grid, shifted.

Patient, beams and dose turn together, which is an exact symmetry: gantry angles turn with them, channels that know up
from down are carried along, and millimetres stay millimetres (a finer grid tells the network its own spacing). What is
left is the error of interpolation: channels are smooth and read linearly, dose in the slice by a bicubic kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared_model.channels.volumes import PatientChannels
from shared_model.network.pyramid import STRIDE

# Most voxels (z, y, x) of a window: two thirds of OpenKBP's bodies at 64^3, at half of the cost.
WINDOW = (32, 40, 48)


@dataclass(frozen=True, kw_only=True)
class View:
    """How a patient lies: the mirror (left for right), then the turn (deg), on a grid of ``spacing`` times theirs.

    ``spacing`` (z, in the slice) factors; ``shift`` (z, y, x) in voxels. The turn moves gantry 0 to gantry ``turn``.
    ``window``: of a body longer than WINDOW only a part is seen, which lies (z, y, x) between its ends, 0 to 1; None:
    all of it. A view that is plain is always whole.
    """

    mirrored: bool = False
    turn_deg: float = 0.0
    spacing: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    window: tuple[float, float, float] | None = None

    @property
    def plain(self) -> bool:
        """Whether no value has to be read between voxels."""
        return self.turn_deg == 0.0 and self.spacing == (1.0, 1.0) and self.shift == (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a view leaves: ``stack`` (z, y, x, C) with sizes that are multiples of STRIDE, and what belongs to it.

    ``low``: where the patient's own box begins in it, for a view that is plain.
    """

    stack: Tensor
    spacing_mm: tuple[float, float, float]
    gantry_rad: Tensor
    low: tuple[int, int, int]


def seen_from(patient: PatientChannels, view: View) -> Sight:
    """The patient's stack in a view, float32, and 0 outside of what they have."""
    stack = torch.from_numpy(patient.stack.astype(np.float32))
    angles = torch.tensor(patient.gantry_deg, dtype=torch.float32) * (math.pi / 180)
    if view.mirrored:
        stack = stack.flip(2)
        paired, swapped = patient.layout.of("oar"), patient.layout.mirrored()
        stack[..., paired] = stack[..., swapped[paired]]
        angles = -angles
    spacing = patient.spacing_mm
    if view.plain:
        stack, low = _padded(stack)
    else:
        stack, low = _turned(stack, patient.layout.index("body"), spacing, view), (0, 0, 0)
        spacing = (spacing[0] * view.spacing[0], spacing[1] * view.spacing[1], spacing[2] * view.spacing[1])
        angles = angles + math.radians(view.turn_deg)
    return Sight(stack=stack, spacing_mm=spacing, gantry_rad=angles, low=low)


def frame(shape: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The least sizes (z, y, x) that are multiples of STRIDE and hold a box of ``shape``, and where the box begins."""
    whole = [-(-n // STRIDE) * STRIDE for n in shape]
    low = [(w - n) // 2 for w, n in zip(whole, shape, strict=True)]
    return (whole[0], whole[1], whole[2]), (low[0], low[1], low[2])


def _padded(stack: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    whole, low = frame(stack.shape[:3])
    z, y, x = ((a, w - n - a) for a, w, n in zip(low, whole, stack.shape, strict=False))
    return F.pad(stack, (0, 0, *x, *y, *z)), low


def _turned(stack: Tensor, body: int, spacing_mm: tuple[float, float, float], view: View) -> Tensor:
    """The stack read at the turned grid's voxels; the grid holds all of the turned body."""
    z, y, x, channels = stack.shape
    dy, dx = spacing_mm[1], spacing_mm[2]
    finer, flat = view.spacing
    cos, sin = math.cos(math.radians(view.turn_deg)), math.sin(math.radians(view.turn_deg))
    where = stack[..., body].amax(0).nonzero()
    v, u = (where[:, 0] - (y - 1) / 2) * dy, (where[:, 1] - (x - 1) / 2) * dx
    # Gantry 0 is at -y and 90 at +x: a turn by the gantry's sense takes (u, v) to (cos u - sin v, sin u + cos v).
    to_u, to_v = cos * u - sin * v, sin * u + cos * v
    middle_u, middle_v = ((float(t.max()) + float(t.min())) / 2 for t in (to_u, to_v))
    extents = [z / finer]
    extents += [(float(t.max()) - float(t.min())) / (d * flat) + 1 for t, d in ((to_v, dy), (to_u, dx))]
    sizes = [max(STRIDE, -(-math.ceil(e - 0.25) // STRIDE) * STRIDE) for e in extents]
    shifts = list(view.shift)
    if view.window is not None:
        seen = [min(n, most) for n, most in zip(sizes, WINDOW, strict=True)]
        shifts = [
            s + round((place - 0.5) * (n - m)) for s, place, n, m in zip(shifts, view.window, sizes, seen, strict=True)
        ]
        sizes = seen
    zz, yy, xx = ((torch.arange(n) - (n - 1) / 2 + s) for n, s in zip(sizes, shifts, strict=True))
    zz = zz * finer + (z - 1) / 2
    v, u = torch.meshgrid(yy * (dy * flat) + middle_v, xx * (dx * flat) + middle_u, indexing="ij")
    rows, columns = (-sin * u + cos * v) / dy + (y - 1) / 2, (cos * u + sin * v) / dx + (x - 1) / 2
    table = F.pad(stack, (0, 0, 1, 1, 1, 1, 1, 1)).reshape(-1, channels)
    zi, zw = _neighbours(zz, z)
    yi, yw = _neighbours(rows, y)
    xi, xw = _neighbours(columns, x)
    plane = (yi[..., :, None] * (x + 2) + xi[..., None, :]).flatten(-2)
    plane_w = (yw[..., :, None] * xw[..., None, :]).flatten(-2)
    index = zi[:, None, None, :, None] * ((y + 2) * (x + 2)) + plane[None, :, :, None, :]
    weight = zw[:, None, None, :, None] * plane_w[None, :, :, None, :]
    out = F.embedding_bag(index.reshape(-1, 8), table, per_sample_weights=weight.reshape(-1, 8), mode="sum")
    out = out.reshape(*sizes, channels)
    out[..., -1] = _sharp(stack[..., -1], zi, zw, rows, columns)
    return out


def _neighbours(where: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (..., 2) on an axis padded by one zero at both ends, and linear weights (..., 2)."""
    where = where.clamp(-1.0, float(count))
    low = where.floor()
    share = where - low
    index = torch.stack([low, low + 1], dim=-1).long() + 1
    return index.clamp(0, count + 1), torch.stack([1 - share, share], dim=-1)


def _sharp(dose_zyx: Tensor, zi: Tensor, zw: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Dose read linearly along z and bicubically in the slice, never negative."""
    _, y, x = dose_zyx.shape
    padded = F.pad(dose_zyx, (0, 0, 0, 0, 1, 1))
    slices = (padded[zi] * zw[..., None, None]).sum(1)
    grid = torch.stack([(columns + 0.5) * (2 / x) - 1, (rows + 0.5) * (2 / y) - 1], dim=-1)[None]
    out: Tensor = F.grid_sample(slices[None], grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return out[0].clamp_min(0.0)
