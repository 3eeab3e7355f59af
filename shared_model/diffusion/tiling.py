"""Fields over grids larger than a window: computed tile by tile, neighbours blended where they overlap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil

import torch
from torch import Tensor

Triple = tuple[int, int, int]
Window = tuple[slice, slice, slice]


def starts(size: int, window: int, overlap: int) -> list[int]:
    """First cells of the windows that cover ``size`` cells, evenly spread, each overlapping the next by >= overlap.

    The last window ends with the axis; one window does where ``size`` <= ``window``. ValueError if windows would not
    advance.
    """
    if size <= window:
        return [0]
    if not 0 <= overlap < window:
        raise ValueError(f"overlap {overlap}: expected 0 to {window - 1}, less than the window")
    count = ceil((size - overlap) / (window - overlap))
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def tiles(shape: Triple, window: Triple, overlap: int) -> list[Window]:
    """Windows (z, y, x) that cover ``shape``; ``overlap`` cells at least, on axes that need more than one window."""
    axes = [[slice(s, min(s + w, n)) for s in starts(n, w, overlap)] for n, w in zip(shape, window, strict=True)]
    return [(z, y, x) for z, y, x in product(*axes)]


def _ramp(part: slice, size: int, overlap: int) -> Tensor:
    """Weight along one axis: rises over ``overlap`` cells from each inner border, 1 elsewhere; never 0."""
    length = part.stop - part.start
    weight = torch.ones(length, dtype=torch.float64)
    rise = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(1, overlap)
    if part.start > 0:
        weight[:overlap] = rise
    if part.stop < size:
        weight[length - overlap :] = torch.minimum(weight[length - overlap :], rise.flip(0))
    return weight


def blend(field: Callable[[int, Window], Tensor], shape: Triple, parts: list[Window], overlap: int) -> Tensor:
    """The field (..., z, y, x) over ``shape`` from its tiles ``field(number, window)``; weights sum to 1 everywhere.

    One tile is returned as it is.
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
