"""Contours that are there twice. By the even-odd rule a second copy would cut the first one out.

A copy may begin at another point, run the other way round, be rounded, or repeat its first point at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared_model.core.errors import InputError

Array = NDArray[np.float64]

# Outlines that are nowhere farther apart than this are one: a workstation rounds to 0.1 mm, and draws no finer.
COPY_MM = 0.12
# Pairs of outlines with one box, in all of a structure, and points that are compared of each.
_MAX_PAIRS, _MOST_POINTS = 20_000, 400


def without_copies(counts: NDArray[np.int64], points: Array) -> tuple[NDArray[np.int64], Array, int]:
    """Keep each contour once. ``points`` (n, 3) in mm, contour after contour; returns counts, points, and how many
    copies were left out. Raises InputError for more contours of one box than a person draws."""
    parts = np.split(points, np.cumsum(counts)[:-1])
    kept: list[Array] = []
    by_box: dict[tuple[int, ...], list[int]] = defaultdict(list)
    pairs = 0
    for part in parts:
        box = np.concatenate([part.min(axis=0), part.max(axis=0)])
        near = [at for cell in _cells(box) for at in by_box.get(cell, ())]
        pairs += len(near)
        if pairs > _MAX_PAIRS:
            raise InputError("contours lie one upon the other thousands of times; draw it anew")
        if any(_is_copy(part, kept[at]) for at in near):
            continue
        by_box[_cell(box)].append(len(kept))
        kept.append(part)
    left_out = len(parts) - len(kept)
    if not left_out:
        return counts, points, 0
    return np.array([len(part) for part in kept], dtype=np.int64), np.concatenate(kept), left_out


def _cell(box: Array) -> tuple[int, ...]:
    """A cell of boxes' centres, some times COPY_MM wide."""
    return tuple(int(v) for v in np.floor((box[:3] + box[3:]) / (8 * COPY_MM)))


def _cells(box: Array) -> Sequence[tuple[int, ...]]:
    """The cell of a box and those that it may have fallen into by rounding."""
    middle = (box[:3] + box[3:]) / (8 * COPY_MM)
    sides = [{int(np.floor(v - 0.25)), int(np.floor(v + 0.25))} for v in middle]
    return [(z, y, x) for z in sides[0] for y in sides[1] for x in sides[2]]


def _is_copy(one: Array, other: Array) -> bool:
    boxes = np.abs(one.min(axis=0) - other.min(axis=0)), np.abs(one.max(axis=0) - other.max(axis=0))
    if max(float(box.max()) for box in boxes) > COPY_MM:
        return False
    return _farthest(one, other) <= COPY_MM and _farthest(other, one) <= COPY_MM


def _farthest(points: Array, outline: Array) -> float:
    """The greatest distance of a point from an outline, of points some steps apart."""
    chosen = points[:: max(1, len(points) // _MOST_POINTS)]
    sides = np.roll(outline, -1, axis=0) - outline
    squares = np.maximum((sides**2).sum(axis=1), 1e-12)
    farthest = 0.0
    for start in range(0, len(chosen), 64):
        offset = chosen[start : start + 64, None] - outline
        share = np.clip((offset * sides).sum(axis=2) / squares, 0.0, 1.0)
        apart = offset - share[:, :, None] * sides
        farthest = max(farthest, float(np.sqrt((apart**2).sum(axis=2).min(axis=1).max())))
        if farthest > COPY_MM:
            return farthest
    return farthest
