"""From contours to masks on a Case's grid: directly along the axes, or from a tilted CT through its own planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.names.records import Roi
from client.planes.copies import without_copies
from client.planes.lattice import Lattice, sample
from client.planes.rasterise import MAX_CROSSINGS, PLANE_TOLERANCE_MM, Contours, crossings, mask_of
from shared_model.core.errors import InputError
from shared_model.patient.case import Mask, Volume
from shared_model.patient.geometry import Grid

Array = NDArray[np.float64]

# A structure whose contours enclose less than this share of what their largest ones outline, and outline at least so
# many voxels: even a shell of 5 mm holds more, so its contours cut each other out.
_COLLAPSED, _FEW_VOXELS = 0.05, 12.0
# Separates skin from air on CT if no structure set gives the body's outline.
_SKIN_HU = -300.0


class Rasteriser:
    """Makes masks on ``grid`` from contours that were drawn on a CT's planes (``lattice``)."""

    def __init__(self, lattice: Lattice, grid: Grid) -> None:
        self._lattice, self._grid = lattice, grid
        self._axes = lattice.axes()
        between = np.diff(np.sort(lattice.heights_mm))
        self._left = MAX_CROSSINGS
        self._thickness_mm = float(np.median(between)) if len(between) else grid.spacing_mm[0]

    def mask(self, roi: Roi) -> tuple[Mask, int]:
        """The structure's mask (z, y, x), empty for an empty structure, and how many copies of contours it has.

        Raises InputError for contours that do not lie in the CT's planes, that cut each other out, or that are too many
        in all.
        """
        mask, copies = np.zeros(self._grid.shape, dtype=bool), 0
        for part in (roi, *roi.united):
            if len(part.counts):
                counts, points, left_out = without_copies(part.counts, part.points_mm[:, ::-1])
                fill = self._fill_aligned if self._axes is not None else self._fill_tilted
                mask |= fill(counts, points)
                copies += left_out
        return mask, copies

    def _fill_aligned(self, counts: NDArray[np.int64], points: Array) -> Mask:
        """Straight onto the grid, whose axes are those of the planes."""
        assert self._axes is not None
        grid, (through, down, right) = self._grid, self._axes
        row, column = ((points[:, a] - grid.origin_mm[a]) / grid.spacing_mm[a] for a in (down, right))
        contours = Contours(_heights(points[:, through], counts), row, column, counts)
        shape = (grid.shape[down], grid.shape[right])
        flat = self._fill(contours, grid.centres_mm(through), shape)
        return np.ascontiguousarray(np.transpose(flat, np.argsort(self._axes)))

    def _fill_tilted(self, counts: NDArray[np.int64], points: Array) -> Mask:
        """Onto the CT's own planes first, then as a volume onto the grid."""
        lattice = self._lattice
        height, row, column = lattice.index(points)
        contours = Contours(_heights(height, counts), row, column, counts)
        flat = self._fill(contours, lattice.heights_mm, (lattice.rows, lattice.columns))
        return sample(flat.astype(np.float32), lattice, self._grid, 0.0) >= 0.5

    def _fill(self, contours: Contours, heights_mm: Array, shape: tuple[int, int]) -> Mask:
        self._left -= crossings(contours, shape[0])
        if self._left < 0:
            raise InputError(
                f"contours that cross rows more than {MAX_CROSSINGS} times; expected outlines; draw it anew"
            )
        mask = mask_of(contours, heights_mm, shape, self._thickness_mm)
        _check_collapse(contours, mask, heights_mm)
        return mask


def _heights(height: Array, counts: NDArray[np.int64]) -> Array:
    """Mean height of each contour. Raises InputError where its points do not lie in one plane."""
    starts = np.cumsum(counts) - counts
    low, high = np.minimum.reduceat(height, starts), np.maximum.reduceat(height, starts)
    if (high - low).max() > PLANE_TOLERANCE_MM:
        raise InputError(f"a contour leaves its CT plane by {(high - low).max():.3g} mm; draw it on the planning CT")
    return np.asarray((low + high) / 2)


def _check_collapse(contours: Contours, mask: Mask, heights_mm: Array) -> None:
    """Raise InputError where contours enclose next to nothing of what the largest of each plane outlines."""
    area = _areas(contours)
    inside = (contours.height_mm >= heights_mm[0]) & (contours.height_mm <= heights_mm[-1])
    largest: dict[int, float] = {}
    for at in np.flatnonzero(inside):
        near = int(np.abs(heights_mm - contours.height_mm[at]).argmin())
        largest[near] = max(largest.get(near, 0.0), float(area[at]))
    outlined = sum(largest.values())
    filled = sum(int(mask[k].sum()) for k in largest)
    if outlined > _FEW_VOXELS and filled < _COLLAPSED * outlined and filled > 0:
        raise InputError(
            f"its contours cut each other out: they enclose {100 * filled / outlined:.1f}% of what they outline; draw"
            " each outline once"
        )


def _areas(contours: Contours) -> Array:
    """Area of each contour in voxels."""
    ends = np.cumsum(contours.counts)
    following = np.arange(1, int(ends[-1]) + 1)
    following[ends - 1] = ends - contours.counts
    cross = contours.row * contours.column[following] - contours.row[following] * contours.column
    return np.asarray(np.abs(np.add.reduceat(cross, ends - contours.counts)) / 2)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Masks (z, y, x) by name, a note for each structure that was left out or changed, and the targets that are lost:
    name -> why."""

    masks: dict[str, Mask]
    notes: tuple[str, ...]
    lost: dict[str, str]


def structure_masks(
    lattice: Lattice, grid: Grid, rois: Mapping[str, Roi], levels_gy: Mapping[str, float], needed: Sequence[str] = ()
) -> Drawn:
    """Draw every structure. Targets (``levels_gy``) come highest first, each without the voxels of higher ones.

    An organ whose contours cannot be used is left out with a note. Raises InputError for such a structure among
    ``needed``, such as the body.
    """
    rasteriser = Rasteriser(lattice, grid)
    masks: dict[str, Mask] = {}
    notes: list[str] = []
    lost: dict[str, str] = {}
    taken: Mask | None = None
    for name in sorted(rois, key=lambda name: (-levels_gy.get(name, 0.0), name)):
        try:
            mask, copies = rasteriser.mask(rois[name])
        except InputError as error:
            if name in needed:
                raise InputError(f"{name}: {error}") from None
            if name in levels_gy:
                lost[name] = str(error)
            else:
                notes.append(f"{name}: left out: {error}")
            continue
        notes += [f"{name}: {copies} contours are there twice and count once"] if copies else []
        if name in levels_gy:
            alone, mask = mask, mask if taken is None else mask & ~taken
            taken = alone if taken is None else taken | alone
            if not alone.any():
                lost[name] = "nothing of it lies within the CT"
                continue
        if mask.any():
            masks[name] = mask
        else:
            notes.append(f"{name}: nothing of it lies within the grid, or outside a higher target")
    return Drawn(masks=masks, notes=tuple(notes), lost=lost)


def body_mask(drawn: Mask | None, ct_hu: Volume, targets: Sequence[Mask]) -> tuple[Mask, tuple[str, ...]]:
    """Return the body as drawn, or else as the CT shows it, and notes on what was assumed.

    Raises InputError if most of the targets lie outside it.
    """
    notes: tuple[str, ...] = ()
    if drawn is None:
        notes = ("body: no outline was drawn; taken from the CT, couch and mask included where they touch",)
        drawn = _skin(ct_hu)
    treated = np.logical_or.reduce(targets)
    outside = float((treated & ~drawn).sum()) / float(treated.sum())
    if outside > 0.5:
        raise InputError(
            f"{100 * outside:.0f}% of the targets lie outside the body's outline; is another structure, such as a"
            " shell of skin, taken as the body? name the right one Body in the site's file of names"
        )
    if outside > 0.05:
        notes = (*notes, f"targets: {100 * outside:.0f}% lie outside the body's outline")
    return np.asarray(drawn), notes


def _skin(ct_hu: Volume) -> Mask:
    """Find the body's outline from Hounsfield units: the largest part that is not air, holes filled slice by slice."""
    parts, count = ndimage.label(ct_hu > _SKIN_HU)
    if count == 0:
        return np.zeros(ct_hu.shape, dtype=bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = parts == sizes.argmax()
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])
