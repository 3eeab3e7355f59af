"""Compute a field over a grid larger than a window: tile by tile, and blend neighbours where they overlap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil

import torch
from torch import Tensor

Triple = tuple[int, int, int]
Window = tuple[slice, slice, slice]


def starts(size: int, window: int, overlap: int) -> list[int]:
    """First cells of the windows that cover ``size`` cells. They are evenly spread and overlap by >= ``overlap`` cells.

    The last window ends at the end of the axis. If ``size`` <= ``window``, one window is enough. ValueError if the
    windows would not advance.
    """
    if size <= window:
        return [0]
    if not 0 <= overlap < window:
        raise ValueError(f"overlap {overlap}: expected 0 to {window - 1}, less than the window")
    count = ceil((size - overlap) / (window - overlap))
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def tiles(shape: Triple, window: Triple, overlap: int) -> list[Window]:
    """Windows (z, y, x) that cover ``shape``. On axes with several windows they overlap by >= ``overlap`` cells."""
    axes = [[slice(s, min(s + w, n)) for s in starts(n, w, overlap)] for n, w in zip(shape, window, strict=True)]
    return [(z, y, x) for z, y, x in product(*axes)]


def _ramp(part: slice, size: int, overlap: int) -> Tensor:
    """Weight along one axis. It rises over ``overlap`` cells from each inner border, is 1 elsewhere and never 0."""
    length = part.stop - part.start
    weight = torch.ones(length, dtype=torch.float64)
    rise = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(1, overlap)
    if part.start > 0:
        weight[:overlap] = rise
    if part.stop < size:
        weight[length - overlap :] = torch.minimum(weight[length - overlap :], rise.flip(0))
    return weight


def blend(field: Callable[[int, Window], Tensor], shape: Triple, parts: list[Window], overlap: int) -> Tensor:
    """Blend the tiles ``field(number, window)`` into the field (..., z, y, x) over ``shape``.

    The weights of the tiles sum to 1 everywhere. A single tile is returned unchanged.
    """
    if len(parts) == 1:
        return field(0, parts[0])
    total, weights = None, torch.zeros(shape, dtype=torch.float64)
    for number, part in enumerate(parts):
        z, y, x = (_ramp(p, n, overlap) for p, n in zip(part, shape, strict=True))
        weight = z[:, None, None] * y[:, None] * x
        tile = field(number, part)
        if total is None:
            total = torch.zeros((*tile.shape[:-3], *shape), dtype=torch.float64, device=tile.device)
        total[(..., *part)] += tile * weight.to(tile.device)
        weights[part] += weight
    assert total is not None
    return (total / weights.to(total.device)).to(tile.dtype)
