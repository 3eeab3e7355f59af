"""A study's CT onto its grid: the grid itself from the CT's planes, and Hounsfield units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.dicom.headers import Header
from client.dicom.parts import read_ct_slice
from client.dicom.worker import AT_ONCE, Worker
from client.names.records import Points, Roi
from client.planes.lattice import Lattice, along_axis, sample
from client.planes.plane import ImagePlane
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.patient.case import Volume
from shared_model.patient.geometry import Grid, Triple

VOXEL_MM = 3.0
AIR_HU = -1000.0
MAX_GRID_VOXELS = 2**24
MAX_SLICES = 4000
# Along the body's length a Case ends this far beyond its targets: further out, coplanar beams leave only scatter.
FIELD_MARGIN_MM = 50.0
# Memory holds tilted slices all at once, other slices a few at a time, and fewer of large ones.
MAX_TILTED_PIXELS, _AT_ONCE_PIXELS = 2**27, 2**24
# Missing slices: gaps up to this many times the usual distance, and this wide, are bridged; wider ones are refused.
_BRIDGED_GAP, _BRIDGED_MM = 3.2, 15.0


@dataclass(frozen=True, eq=False)
class CtStack:
    """A CT series in order along its normal: one header a slice, and where the slices lie."""

    slices: tuple[Header, ...]
    lattice: Lattice
    notes: tuple[str, ...]


def stack(ct: Sequence[Header]) -> CtStack:
    """Order the slices of a series by position. Raises InputError for slices that do not belong together."""
    planes = [header.plane for header in ct]
    if not planes or len(planes) > MAX_SLICES:
        raise InputError(f"CT: {len(planes)} slices; expected 2 to {MAX_SLICES}")
    first = planes[0]
    assert first is not None
    for plane in planes:
        assert plane is not None
        if not _alike(plane, first):
            raise InputError("CT: slices of different size, spacing or direction in one series; export one series")
    origins = np.array([plane.position[::-1] for plane in planes if plane is not None])
    normal = Lattice.of_planes(first, origins[:1]).normal
    order = np.argsort(origins @ normal)
    lattice = Lattice.of_planes(first, origins[order])
    return CtStack(tuple(ct[i] for i in order), lattice, _spacing_notes(lattice.heights_mm))


def _alike(one: ImagePlane, other: ImagePlane) -> bool:
    directions = np.subtract(
        (*one.row_direction, *one.column_direction), (*other.row_direction, *other.column_direction)
    )
    same_size = (one.rows, one.columns) == (other.rows, other.columns)
    return bool(same_size and np.abs(directions).max() < 1e-3 and np.allclose(one.spacing, other.spacing, rtol=1e-3))


def _spacing_notes(heights: NDArray[np.float64]) -> tuple[str, ...]:
    if len(heights) < 2:
        raise InputError("CT: a single slice; export the whole series")
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if gaps.min() < 1e-3 or gaps.min() < 0.02 * usual:
        raise InputError("CT: two slices lie at one position; export one series, one phase and one reconstruction")
    wide = gaps.max()
    if wide > _BRIDGED_GAP * usual or (wide > 1.5 * usual and wide > _BRIDGED_MM):
        raise InputError(
            f"CT: slices are missing: a gap of {wide:.4g} mm where {usual:.4g} mm is usual; export them too"
        )
    if wide > 1.5 * usual:
        missing = int(np.rint(gaps[gaps > 1.5 * usual] / usual - 1).sum())
        return (f"CT: {missing} slices are missing between others and were interpolated",)
    if np.abs(gaps - usual).max() > 0.01 * usual + 1e-3:
        return (f"CT: slices {gaps.min():.3g} to {wide:.3g} mm apart were brought onto an even grid",)
    return ()


def grid_about(ct: CtStack, body: Roi | None, targets: Sequence[Roi], voxel_mm: float = VOXEL_MM) -> Grid:
    """Make the grid over the body's outline (or the whole CT), in the targets' slices and FIELD_MARGIN_MM beyond.

    ``targets`` have contours. Raises InputError as ``case_grid`` does.
    """
    low, high = (corner.copy() for corner in (_box_mm([body]) if body is not None else ct.lattice.corners_mm()))
    lowest, highest = _box_mm(targets)
    low[0] = max(low[0], lowest[0] - FIELD_MARGIN_MM)
    high[0] = min(high[0], highest[0] + FIELD_MARGIN_MM)
    return case_grid(ct, low, high, voxel_mm)


def _box_mm(rois: Sequence[Roi]) -> tuple[Points, Points]:
    """Lowest and highest point (z, y, x) of all contours."""
    drawn = [part.points_mm[:, ::-1] for roi in rois for part in (roi, *roi.united)]
    return np.min([p.min(axis=0) for p in drawn], axis=0), np.max([p.max(axis=0) for p in drawn], axis=0)


def case_grid(
    ct: CtStack, low_mm: Sequence[float] | Points, high_mm: Sequence[float] | Points, voxel_mm: float = VOXEL_MM
) -> Grid:
    """Make the grid of a Case over the box from ``low_mm`` to ``high_mm`` (z, y, x) and within the CT. Its voxels are
    the CT's own samples if these are coarser than ``voxel_mm``, else groups of them.

    Raises InputError if the box lies outside the CT.
    """
    axes = ct.lattice.axes()
    corners = ct.lattice.corners_mm()
    spacing, origin, shape = [], [], []
    for axis in range(3):
        if axes is None:  # tilted: voxels of the usual size
            step, first, last = _tilted_step(ct.lattice, axis, voxel_mm), corners[0, axis], corners[1, axis]
        else:
            nodes = np.sort(ct.lattice.nodes_mm()[axes.index(axis)])
            step, first, last = float(np.median(np.diff(nodes))) if len(nodes) > 1 else voxel_mm, nodes[0], nodes[-1]
        group = 1 if axes is None else max(1, int(voxel_mm / step + 0.25))
        # All samples whose voxel the box touches, in whole groups.
        start = max(int(np.floor((low_mm[axis] - first) / step + 0.5 + 1e-3)), 0)
        end = min(
            int(np.ceil((high_mm[axis] - first) / step - 0.5 - 1e-3)), int(np.floor((last - first) / step + 1e-3))
        )
        count = -(-(end - start + 1) // group)
        if end < start:
            raise InputError("structures and dose lie outside the CT; are they another patient's or another series'?")
        spacing.append(float(step * group))
        origin.append(float(first + (start + (group - 1) / 2) * step))
        shape.append(count)
    if np.prod(shape, dtype=float) > MAX_GRID_VOXELS:
        raise InputError(f"CT: a grid of {shape} voxels; expected at most {MAX_GRID_VOXELS}")
    return Grid((shape[0], shape[1], shape[2]), _triple(spacing), _triple(origin))


def _tilted_step(lattice: Lattice, axis: int, voxel_mm: float) -> float:
    """Return the lattice's step along the patient axis that it follows most closely, at least ``voxel_mm``."""
    between = np.median(np.diff(lattice.origins_mm, axis=0), axis=0)
    steps = np.stack([between, lattice.down, lattice.right])
    along = np.abs(steps[:, axis])
    return max(float(np.linalg.norm(steps[along.argmax()])), voxel_mm if along.argmax() else voxel_mm / 1.5)


def ct_hu(worker: Worker, ct: CtStack, grid: Grid) -> Volume:
    """Return Hounsfield units on ``grid``, air outside the CT; memory holds one full slice at a time."""
    axes = ct.lattice.axes()
    if axes is None:
        pixels = len(ct.slices) * ct.lattice.rows * ct.lattice.columns
        if pixels > MAX_TILTED_PIXELS:
            raise InputError(f"CT: {pixels} pixels of tilted slices; expected at most {MAX_TILTED_PIXELS}")
        return sample(np.stack(list(_slices(worker, ct.slices))), ct.lattice, grid, AIR_HU)
    frames, rows, columns = (along_axis(nodes, grid, a) for nodes, a in zip(ct.lattice.nodes_mm(), axes, strict=True))
    flat = np.zeros((len(frames), len(rows), len(columns)), dtype=np.float32)
    within = [at for at in range(len(ct.slices)) if frames[:, at].any()]
    for at, hu in zip(within, _slices(worker, [ct.slices[at] for at in within]), strict=True):
        used = np.flatnonzero(frames[:, at])
        flat[used] += frames[used, at, None, None] * (rows @ (hu - np.float32(AIR_HU)) @ columns.T)
    return to_patient(flat, axes) + np.float32(AIR_HU)


def _slices(worker: Worker, headers: Sequence[Header]) -> Iterator[Volume]:
    """Yield the Hounsfield units of slices, one by one; fewer large slices than small ones are requested at once."""
    plane = headers[0].plane if headers else None
    step = AT_ONCE if plane is None else max(1, min(AT_ONCE, _AT_ONCE_PIXELS // (plane.rows * plane.columns)))
    for start in range(0, len(headers), step):
        part = headers[start : start + step]
        for header, hu in zip(part, worker.read_many(read_ct_slice, [h.path for h in part]), strict=True):
            if isinstance(hu, FedKT3DError):
                raise InputError(f"CT: a slice: {hu}")
            if header.plane is None or hu.shape != (header.plane.rows, header.plane.columns):
                raise InputError("CT: a slice's pixels do not fit its Rows and Columns")
            yield hu


def to_patient(flat: Volume, axes: tuple[int, int, int]) -> Volume:
    """(frames, rows, columns) -> (z, y, x)."""
    return np.ascontiguousarray(np.transpose(flat, np.argsort(axes)))


def _triple(values: Sequence[float]) -> Triple:
    return (values[0], values[1], values[2])
