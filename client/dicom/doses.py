"""The dose of a plan on a Case's grid: which files make it up, where their samples lie, and what they do not cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from client.dicom.headers import Header
from client.dicom.images import to_patient
from client.dicom.parts import DoseGrid, read_dose_grid
from client.dicom.plan import Plan
from client.dicom.worker import Worker
from client.planes.lattice import Lattice, along_axis, sample
from shared_model.core.errors import InputError
from shared_model.patient.case import Mask, Volume
from shared_model.patient.geometry import Grid

# One plan's dose as files of one plane each: more than a dose has planes.
MAX_PLANES = 1000


@dataclass(frozen=True, kw_only=True)
class PlanDose:
    """A plan's dose on a grid (z, y, x): ``gy``, 0 where no file says it, and ``covered``, where every file does."""

    gy: Volume
    covered: Mask
    notes: tuple[str, ...]


def plan_dose(worker: Worker, headers: Sequence[Header], plan: Plan | None, grid: Grid) -> PlanDose | None:
    """Return the plan's dose in Gy on ``grid``, at least 0; None for a study without dose.

    Raises InputError if the doses are not the plan's whole dose.
    """
    if not headers:
        return None
    doses, notes = _read_doses(worker, headers, plan)
    total, covered = np.zeros(grid.shape, dtype=np.float32), np.ones(grid.shape, dtype=bool)
    for dose in doses:
        lattice, values = _dose_lattice(dose), dose.dose_gy
        if dose.offsets_mm[-1] < 0:  # frames must ascend along the normal
            lattice, values = replace(lattice, origins_mm=lattice.origins_mm[::-1]), values[::-1]
        total += _dose_gy(values, lattice, grid)
        covered &= _covered(lattice, grid)
    return PlanDose(gy=np.asarray(np.maximum(total, 0.0)), covered=covered, notes=notes)


def _read_doses(
    worker: Worker, headers: Sequence[Header], plan: Plan | None
) -> tuple[Iterator[DoseGrid], tuple[str, ...]]:
    """Return the grids whose sum is the plan's dose: one of the whole plan, or one of each beam, read one by one.

    Raises InputError if neither is complete according to ``plan`` (None: no plan is here to tell).
    """
    whole, notes = _physical([h for h in headers if h.summation in ("PLAN", "") and not h.beams])
    groups = [h for h in headers if h.summation == "FRACTION" and not h.beams]
    if not whole and groups:
        if plan is None or plan.fraction_groups != 1:
            has = "there is no plan" if plan is None else f"the plan has {plan.fraction_groups}"
            raise InputError(f"dose: of one fraction group, and {has}; export the dose of the whole plan")
        whole = groups
    if len(whole) == 1:
        return iter([worker.read(read_dose_grid, whole[0].path)]), notes
    if len(whole) > 1:
        planes = [worker.read(read_dose_grid, h.path) for h in whole[: MAX_PLANES + 1]]
        return iter([_stacked(planes)]), (*notes, f"dose: one grid of {len(planes)} files, a plane each")
    # Some planning systems call each beam's dose PLAN and name the beam.
    parts = [h for h in headers if h.summation == "BEAM" or (h.beams and h.summation in ("PLAN", "FRACTION", ""))]
    if not parts:
        raise InputError("dose: DoseSummationType is another one; expected PLAN, or BEAM for every beam")
    if plan is None:
        raise InputError(f"dose: {len(parts)} doses of beams, and there is no plan to tell of which; export it too")
    covered = [beam for h in parts for beam in h.beams]
    if len(set(covered)) != len(covered) or set(covered) != set(plan.beam_numbers):
        count = len(plan.beam_numbers)
        raise InputError(f"dose: {len(parts)} doses of beams, which are not each of the plan's {count} beams once")
    return (worker.read(read_dose_grid, h.path) for h in parts), (f"dose: the sum of {len(parts)} beams",)


def _physical(whole: list[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """Of two doses of one plan that differ in DoseType, take the physical one: the other is weighted by biology."""
    physical = [h for h in whole if h.dose_type.upper() == "PHYSICAL"]
    if len(whole) == 2 and len(physical) == 1 and {h.dose_type.upper() for h in whole} == {"PHYSICAL", "EFFECTIVE"}:
        return physical, ("dose: the PHYSICAL one; another of DoseType EFFECTIVE was left out",)
    return whole, ()


def _stacked(planes: Sequence[DoseGrid]) -> DoseGrid:
    """One grid from files of a single plane each. Raises InputError for doses that are no planes of one grid."""
    first = planes[0].plane
    normal = np.cross(first.row_direction, first.column_direction)
    alike = all(
        len(dose.offsets_mm) == 1
        and (dose.plane.rows, dose.plane.columns) == (first.rows, first.columns)
        and np.allclose(dose.plane.spacing, first.spacing, rtol=1e-3)
        and np.allclose(dose.plane.row_direction, first.row_direction, atol=1e-4)
        and np.allclose(dose.plane.column_direction, first.column_direction, atol=1e-4)
        for dose in planes
    )
    if not alike or len(planes) > MAX_PLANES:
        raise InputError(f"dose: {len(planes)} doses of the whole plan; remove those that are not in use")
    shifts = np.array([np.subtract(dose.plane.position, first.position) for dose in planes])
    heights = shifts @ normal
    order = np.argsort(heights)
    steps = np.diff(heights[order])
    if np.abs(shifts - heights[:, None] * normal).max() > 0.1 or steps.min() < 0.1 or steps.max() > 1.5 * steps.min():
        raise InputError(f"dose: {len(planes)} planes that make no grid; export the dose again, all of its planes")
    return DoseGrid(
        plane=planes[order[0]].plane,
        offsets_mm=heights[order] - heights[order[0]],
        dose_gy=np.concatenate([planes[k].dose_gy for k in order]),
    )


def _dose_lattice(dose: DoseGrid) -> Lattice:
    """Where a dose grid's samples lie, frames in order along the normal of its plane."""
    first = np.array(dose.plane.position[::-1])
    normal = Lattice.of_planes(dose.plane, first[None]).normal
    origins = first + dose.offsets_mm[:, None] * normal
    return Lattice.of_planes(dose.plane, origins)


def _covered(lattice: Lattice, grid: Grid) -> Mask:
    """Where a dose has samples about the grid's voxel centres."""
    axes = lattice.axes()
    if axes is None:
        ones = np.ones((len(lattice.origins_mm), lattice.rows, lattice.columns), dtype=np.float32)
        return np.asarray(sample(ones, lattice, grid, 0.0) > 0.5)
    matrices = [along_axis(nodes, grid, a) for nodes, a in zip(lattice.nodes_mm(), axes, strict=True)]
    frames, rows, columns = (np.abs(matrix).sum(axis=1) > 0 for matrix in matrices)
    flat = frames[:, None, None] & rows[:, None] & columns
    return np.ascontiguousarray(np.transpose(flat, np.argsort(axes)))


def _dose_gy(values: Volume, lattice: Lattice, grid: Grid) -> Volume:
    """Dose in Gy on ``grid``; 0 outside the dose grid, whose samples lie at ``lattice``."""
    axes = lattice.axes()
    if axes is None:
        return sample(values, lattice, grid, 0.0)
    frames, rows, columns = (along_axis(nodes, grid, a) for nodes, a in zip(lattice.nodes_mm(), axes, strict=True))
    flat = np.einsum("ck,krs->crs", frames, values @ columns.T, optimize=True)
    return to_patient(np.asarray(rows @ flat, dtype=np.float32), axes)
