"""From contours to masks on a Case's grid: directly along the axes, or from a tilted CT through its own planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.dicom.lattice import Lattice, sample
from client.dicom.rasterise import MAX_CROSSINGS, PLANE_TOLERANCE_MM, Contours, crossings, mask_of
from client.names.records import Roi
from shared_model.core.errors import InputError
from shared_model.patient.case import Mask, Volume
from shared_model.patient.geometry import Grid

Array = NDArray[np.float64]

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

    def mask(self, roi: Roi) -> Mask:
        """The structure's mask (z, y, x), empty for an empty structure.

        Raises InputError for contours that do not lie in the CT's planes, or that are too many in all.
        """
        if not len(roi.counts):
            return np.zeros(self._grid.shape, dtype=bool)
        counts, points = _once(roi.counts, roi.points_mm[:, ::-1])
        return self._fill_aligned(counts, points) if self._axes is not None else self._fill_tilted(counts, points)

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
        return mask_of(contours, heights_mm, shape, self._thickness_mm)


def _heights(height: Array, counts: NDArray[np.int64]) -> Array:
    """Mean height of each contour. Raises InputError where its points do not lie in one plane."""
    starts = np.cumsum(counts) - counts
    low, high = np.minimum.reduceat(height, starts), np.maximum.reduceat(height, starts)
    if (high - low).max() > PLANE_TOLERANCE_MM:
        raise InputError(f"a contour leaves its CT plane by {(high - low).max():.3g} mm; draw it on the planning CT")
    return np.asarray((low + high) / 2)


def _once(counts: NDArray[np.int64], points: Array) -> tuple[NDArray[np.int64], Array]:
    """Keep each contour once: by the even-odd rule a second copy would cut the first one out."""
    seen: set[bytes] = set()
    kept = []
    for part in np.split(points, np.cumsum(counts)[:-1]):
        content = part.tobytes()
        if content not in seen:
            seen.add(content)
            kept.append(part)
    if len(kept) == len(counts):
        return counts, points
    return np.array([len(part) for part in kept], dtype=np.int64), np.concatenate(kept)


def structure_masks(
    lattice: Lattice, grid: Grid, rois: Mapping[str, Roi], levels_gy: Mapping[str, float]
) -> tuple[dict[str, Mask], tuple[str, ...]]:
    """Return masks (z, y, x) by name, and a note for each empty one. Targets (``levels_gy``) come highest first, each
    without the voxels of higher ones. Raises InputError naming the structure whose contours cannot be used."""
    rasteriser = Rasteriser(lattice, grid)
    masks: dict[str, Mask] = {}
    notes: list[str] = []
    taken: Mask | None = None
    for name in sorted(rois, key=lambda name: (-levels_gy.get(name, 0.0), name)):
        try:
            mask = rasteriser.mask(rois[name])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if name in levels_gy:
            mask = mask if taken is None else mask & ~taken
            taken = mask if taken is None else taken | mask
        if mask.any():
            masks[name] = mask
        else:
            notes.append(f"{name}: nothing of it lies within the grid, or outside a higher target")
    return masks, tuple(notes)


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
