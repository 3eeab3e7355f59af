"""Contours to masks: all contours of a structure at once, by the area that they cover of each voxel.

Contours of one structure on one plane enclose by the even-odd rule: a hole may be a contour inside another or the
inner part of a keyhole. Between planes that were drawn, and only there, the outline is interpolated by signed distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.dicom_lattice import edges_mm
from shared_model.case import Mask
from shared_model.errors import InputError

Array = NDArray[np.float64]

# Lines of a voxel row on which a contour's area is measured; along a line it is exact.
_LINES = 4
_MAX_CROSSINGS = 40_000_000
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


def mask_of(contours: Contours, heights_mm: Array, shape: tuple[int, int], thickness_mm: float) -> Mask:
    """Voxels of planes at ascending ``heights_mm`` that are at least half inside; (heights, *shape).

    ``thickness_mm`` is that of a structure drawn on a single plane. A structure thinner than half a voxel keeps the
    voxel that it covers most. Raises InputError for contours that cross rows millions of times.
    """
    mask = np.zeros((len(heights_mm), *shape), dtype=bool)
    if not len(contours.counts):
        return mask
    planes, which = _planes(contours.height_mm)
    low, size = _window(contours, shape)
    if min(size) < 1:
        return mask
    drawn = _coverage(contours, which, len(planes), low, size)
    planes, drawn = _bridged(planes, drawn, heights_mm)
    window = mask[:, low[0] : low[0] + size[0], low[1] : low[1] + size[1]]
    best, most = 0.0, (0, 0, 0)
    for k, share in enumerate(_shares(planes, heights_mm, thickness_mm)):
        of = np.flatnonzero(share)
        if not of.size:
            continue
        covered = np.tensordot(share[of], drawn[of], axes=1)
        window[k] = covered >= 0.5 - 1e-4
        if covered.max() > best:
            best, most = float(covered.max()), (k, *divmod(int(covered.argmax()), size[1]))
    if best > 0 and not window.any():
        window[most] = True
    return mask


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


def _coverage(
    contours: Contours, which: NDArray[np.intp], planes: int, low: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Covered share of each pixel, (planes, *size): where lines cross contours, in pairs, even-odd."""
    lines, columns = size[0] * _LINES, size[1]
    # Pixel r reaches from r to r + 1 here, and line s lies at (s + 0.5) / _LINES.
    y0 = (contours.row - low[0] + 0.5) * _LINES - 0.5
    x0 = contours.column - low[1] + 0.5
    following = np.arange(1, len(y0) + 1)
    ends = np.cumsum(contours.counts)
    following[ends - 1] = ends - contours.counts
    y1, x1 = y0[following], x0[following]
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, lines).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, lines).astype(np.int64)
    crossings = last - first
    if crossings.sum() > _MAX_CROSSINGS:
        raise InputError(f"contours that cross rows more than {_MAX_CROSSINGS} times; expected an outline")
    edge = np.repeat(np.arange(len(y0)), crossings)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(crossings) - crossings, crossings) + first[edge]
    x = x0[edge] + (line - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    np.clip(x, 0.0, columns, out=x)
    plane = np.repeat(which, contours.counts)[edge]
    key = plane * lines + line
    order = np.lexsort((x, key))
    # Every line crosses a closed contour an even number of times: entries and exits alternate.
    x, key = x[order], key[order]
    sign = 1.0 - 2.0 * (np.arange(len(x)) % 2)
    column = np.minimum(x.astype(np.int64), columns)
    part = x - column
    cell = (key // _LINES) * (columns + 2) + column
    cells = planes * size[0] * (columns + 2)
    flow = np.bincount(np.concatenate([cell, cell + 1]), np.concatenate([sign * (1 - part), sign * part]), cells)
    cover = np.cumsum(flow.reshape(planes, size[0], columns + 2), axis=2)[:, :, :columns] / _LINES
    return np.asarray(cover, dtype=np.float32)


def _bridged(planes: Array, drawn: NDArray[np.float32], heights_mm: Array) -> tuple[Array, NDArray[np.float32]]:
    """Planes put between those that were drawn where slices of the image lie between them, by signed distance."""
    if len(planes) < 2:
        return planes, drawn
    gaps = np.diff(planes)
    usual = float(np.median(gaps))
    slices = float(np.median(np.diff(heights_mm))) if len(heights_mm) > 1 else usual
    all_planes, all_drawn = [planes[:1]], [drawn[:1]]
    for i, gap in enumerate(gaps):
        if gap > 1.4 * slices and gap <= _MAX_GAP * max(usual, slices):
            parts = int(np.ceil(gap / slices - 1e-3))
            at = np.arange(1, parts) / parts
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
