"""Contours to masks: all contours of a structure at once, by the area that they cover of each voxel.

Contours of one structure on one plane enclose by the even-odd rule: a hole may be a contour inside another or the
inner part of a keyhole. Between planes that were drawn, and only there, the outline is interpolated by signed distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.planes.lattice import edges_mm
from shared_model.core.errors import InputError
from shared_model.patient.case import Mask

Array = NDArray[np.float64]

# Lines of a voxel row on which a contour's area is measured; along a line it is exact.
_LINES = 4
# Of all contours of a patient; a body on 500 planes crosses half a million times.
MAX_CROSSINGS = 8_000_000
# Distinct planes of one structure, and pixels of all of them: more than a CT has.
_MAX_PLANES, _MAX_PIXELS = 5000, 2**26
# Pixels that are worked on at once.
_AT_ONCE = 2**22
# Points of one contour are off its plane by less; contours closer than that are on one plane.
PLANE_TOLERANCE_MM = 0.5
_SAME_PLANE_MM = 0.05
# Gaps up to this many times the usual distance between planes are bridged; wider ones part a structure in two.
_MAX_GAP = 2.6


@dataclass(frozen=True, eq=False)
class Contours:
    """Closed contours, one after another: ``height_mm`` (contours,) of their planes, ``row`` and ``column`` (points,)
    in voxels (0 is the first voxel's centre), ``counts`` points of each."""

    height_mm: Array
    row: Array
    column: Array
    counts: NDArray[np.int64]


def crossings(contours: Contours, rows: int) -> int:
    """Estimate how often the contours cross the lines of ``rows`` voxel rows: the cost of filling them."""
    following = _next_points(contours.counts)
    row = np.clip(contours.row, -1, rows)
    return int(_LINES * np.abs(row[following] - row).sum())


def mask_of(contours: Contours, heights_mm: Array, shape: tuple[int, int], thickness_mm: float) -> Mask:
    """Voxels of planes at ascending ``heights_mm`` that are at least half inside; (heights, *shape).

    ``thickness_mm`` is that of a structure drawn on a single plane. A structure thinner than half a voxel keeps the
    voxel that it covers most. Raises InputError for contours on more planes than a CT has.
    """
    mask = np.zeros((len(heights_mm), *shape), dtype=bool)
    if not len(contours.counts):
        return mask
    planes, which = _planes(contours.height_mm)
    low, size = _window(contours, shape)
    if min(size) < 1:
        return mask
    _check_size(len(planes), size)
    drawn = _coverage(contours, which, len(planes), low, size)
    planes, drawn = _bridge(planes, drawn, heights_mm)
    window = mask[:, low[0] : low[0] + size[0], low[1] : low[1] + size[1]]
    best, most = 0.0, (0, 0, 0)
    for k, share in enumerate(_shares(planes, heights_mm, thickness_mm)):
        of = np.flatnonzero(share)
        if not of.size:
            continue
        covered = np.tensordot(share[of], drawn[of], axes=1)
        window[k] = covered >= 0.5 - 1e-4
        if covered.max() > best:
            row, column = np.unravel_index(covered.argmax(), size)
            best, most = float(covered.max()), (k, int(row), int(column))
    if best > 0 and not window.any():
        window[most] = True
    return mask


def _check_size(planes: int, size: tuple[int, ...]) -> None:
    if planes > _MAX_PLANES or planes * size[0] * size[1] > _MAX_PIXELS:
        raise InputError(f"contours on or between {planes} planes; expected one a slice of the CT; export it again")


def _planes(height_mm: Array) -> tuple[Array, NDArray[np.intp]]:
    """Heights of the distinct planes, ascending, and the plane of each contour."""
    order = np.argsort(height_mm, kind="stable")
    new = np.concatenate([[True], np.diff(height_mm[order]) > _SAME_PLANE_MM])
    which = np.empty(len(order), dtype=np.intp)
    which[order] = np.cumsum(new) - 1
    return height_mm[order][new], which


def _window(contours: Contours, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First voxel (row, column) and size of the part of a plane that the contours touch."""
    low, high = [], []
    for values, n in ((contours.row, shape[0]), (contours.column, shape[1])):
        low.append(int(np.clip(np.floor(values.min()) - 1, 0, n)))
        high.append(int(np.clip(np.ceil(values.max()) + 2, 0, n)))
    return (low[0], low[1]), (high[0] - low[0], high[1] - low[1])


def _next_points(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the point after each, round every contour."""
    ends = np.cumsum(counts)
    following = np.arange(1, int(ends[-1]) + 1)
    following[ends - 1] = ends - counts
    return following


def _coverage(
    contours: Contours, which: NDArray[np.intp], planes: int, low: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Covered share of each pixel, (planes, *size); some planes at a time."""
    # Pixel r reaches from r to r + 1 here, and line s lies at (s + 0.5) / _LINES.
    y = (contours.row - low[0] + 0.5) * _LINES - 0.5
    x = contours.column - low[1] + 0.5
    following = _next_points(contours.counts)
    of_plane = np.repeat(which, contours.counts)
    order = np.argsort(of_plane, kind="stable")
    edges = np.stack([y, x, y[following], x[following]])[:, order]
    of_plane = of_plane[order]
    cover = np.empty((planes, *size), dtype=np.float32)
    step = max(1, _AT_ONCE // (size[0] * (size[1] + 2)))
    for start in range(0, planes, step):
        stop = min(start + step, planes)
        part = slice(*np.searchsorted(of_plane, [start, stop]))
        cover[start:stop] = _fill(edges[:, part], of_plane[part] - start, (stop - start, *size))
    return cover


def _fill(edges: Array, of_plane: NDArray[np.intp], shape: tuple[int, int, int]) -> Array:
    """Covered share of each pixel (planes, rows, columns) by where lines cross ``edges`` (y0, x0, y1, x1), in pairs,
    even-odd."""
    planes, rows, columns = shape
    lines = rows * _LINES
    y0, x0, y1, x1 = edges
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, lines).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, lines).astype(np.int64)
    crossings = last - first
    edge = np.repeat(np.arange(len(y0)), crossings)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(crossings) - crossings, crossings) + first[edge]
    x = x0[edge] + (line - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    np.clip(x, 0.0, columns, out=x)
    key = of_plane[edge] * lines + line
    order = np.lexsort((x, key))
    # Every line crosses a closed contour an even number of times: entries and exits alternate.
    x, key = x[order], key[order]
    sign = 1.0 - 2.0 * (np.arange(len(x)) % 2)
    column = np.minimum(x.astype(np.int64), columns)
    part = x - column
    cell = (key // _LINES) * (columns + 2) + column
    cells = planes * rows * (columns + 2)
    flow = np.bincount(np.concatenate([cell, cell + 1]), np.concatenate([sign * (1 - part), sign * part]), cells)
    return np.asarray(np.cumsum(flow.reshape(planes, rows, columns + 2), axis=2)[:, :, :columns] / _LINES)


def _bridge(planes: Array, drawn: NDArray[np.float32], heights_mm: Array) -> tuple[Array, NDArray[np.float32]]:
    """Add planes between drawn ones, by signed distance, if slices of the image lie there."""
    if len(planes) < 2:
        return planes, drawn
    gaps = np.diff(planes)
    usual = float(np.median(gaps))
    slices = float(np.median(np.diff(heights_mm))) if len(heights_mm) > 1 else usual
    wide = (gaps > 1.4 * slices) & (gaps <= _MAX_GAP * max(usual, slices))
    parts = np.where(wide, np.ceil(gaps / slices - 1e-3), 1).astype(np.int64)
    if not wide.any():
        return planes, drawn
    _check_size(int(parts.sum()) + 1, drawn.shape[1:])
    all_planes, all_drawn = [planes[:1]], [drawn[:1]]
    for i, gap in enumerate(gaps):
        if parts[i] > 1:
            at = np.arange(1, parts[i]) / parts[i]
            all_planes.append(planes[i] + at * gap)
            all_drawn.append(_between(drawn[i] >= 0.5, drawn[i + 1] >= 0.5, at))
        all_planes.append(planes[i + 1 : i + 2])
        all_drawn.append(drawn[i + 1 : i + 2])
    return np.concatenate(all_planes), np.concatenate(all_drawn)


def _between(one: Mask, other: Mask, at: Array) -> NDArray[np.float32]:
    """Outlines at shares ``at`` of the way from one mask to the next, by linear signed distance."""
    if not one.any() or not other.any():
        return np.stack([(one if share < 0.5 else other) for share in at]).astype(np.float32)
    near, far = (ndimage.distance_transform_edt(m) - ndimage.distance_transform_edt(~m) for m in (one, other))
    return np.stack([(1 - share) * near + share * far > 0 for share in at]).astype(np.float32)


def _shares(planes: Array, heights_mm: Array, thickness_mm: float) -> NDArray[np.float32]:
    """(heights, planes): share of each voxel's thickness that belongs to a plane. A plane reaches half way to its
    neighbours; before a wide gap, and at the ends, as far as it does on the other side."""
    slab = edges_mm(heights_mm, thickness_mm)
    low, high = _reach(planes, thickness_mm)
    overlap = np.minimum(high[None], slab[1:, None]) - np.maximum(low[None], slab[:-1, None])
    return np.asarray(np.clip(overlap, 0, None) / np.diff(slab)[:, None], dtype=np.float32)


def _reach(planes: Array, thickness_mm: float) -> tuple[Array, Array]:
    if len(planes) == 1:
        return planes - thickness_mm / 2, planes + thickness_mm / 2
    gaps = np.diff(planes)
    usual = float(np.median(gaps))
    # After bridging, what is still wider than usual parts the structure.
    half = np.where(gaps <= 1.5 * usual, gaps / 2, usual / 2)
    return planes - np.concatenate([half[:1], half]), planes + np.concatenate([half, half[-1:]])
