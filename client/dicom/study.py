"""DICOM-RT in: one study as a Case, or its structures' names alone.

``read_case(study)`` reads CT, structures by TG-263 name, plates from the plan's beams and dose; on one grid in mm, LPS,
resampled once. ``read_source`` gives the data set of a file of the study, for writing an RTDOSE beside it.

Files are parsed in a process of their own (client/dicom/worker.py). No exception, note or problem here holds a name, an
id or a path; headers do, and stay at the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset

from client.dicom.beams import PLATES, plan_angles, plan_plates
from client.dicom.find import DicomStudy
from client.dicom.headers import Header
from client.dicom.images import VOXEL_MM, ct_hu, grid_about, plan_dose, stack
from client.dicom.masks import body_mask, structure_masks
from client.dicom.open import open_source
from client.dicom.parts import read_rois
from client.dicom.plan import Plan, read_plan
from client.dicom.worker import worker
from client.names.records import Prescription, Roi
from client.names.rules import NameRules
from client.names.table import PLAN_NOT_NAME, NameRow, name_table
from client.names.tg263 import BODY
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import is_target
from shared_model.patient.case import Case

T = TypeVar("T")

# Levels of dose that one plan prescribes.
MAX_TARGETS = 12


class NoTargetError(InputError):
    """A study without a target. ``names`` is its review table, which gives the reason."""

    def __init__(self, names: tuple[NameRow, ...], front: str = "") -> None:
        super().__init__(
            f"{front}no target with a prescription; look at its structures' names (client check --show-ids) and set"
            " prescriptions_gy in the site's file of names"
        )
        self.names = names


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One patient's plan that was read. ``names`` is the review table of its structures (empty where its kind of data
    fixes them), ``plan`` what its RTPLAN says (None without one), ``notes`` what was assumed or left out, each one line
    without a name or id."""

    case: Case
    names: tuple[NameRow, ...] = ()
    plan: Plan | None = None
    notes: tuple[str, ...] = ()


def read_source(header: Header) -> Dataset:
    """The data set of one file of a study without its pixels: the patient, study and references that an RTDOSE must
    repeat. Raises InputError if the file can no longer be read."""
    return worker().read(open_source, header.path)


def read_names(study: DicomStudy, rules: NameRules | None = None) -> tuple[NameRow, ...]:
    """The review table of a study's structures alone. Raises InputError if it has none that can be read."""
    return _records(study, rules or NameRules()).names


def read_case(
    study: DicomStudy, rules: NameRules | None = None, *, plates: str = "fast", voxel_mm: float = VOXEL_MM
) -> Reading:
    """Read ``study`` as a Case; ``plates`` is ``fast`` or ``exact``, ``voxel_mm`` the finest voxel
    (client/dicom/beams.py).

    The Case covers the body's outline along the targets and FIELD_MARGIN_MM beyond. A lower target is without the part
    that a higher one covers. Without an RTPLAN there are no plates, without an RTDOSE no dose. Raises InputError naming
    the case by its pseudonym and what is wrong: no CT, no target with a prescription, missing slices, a relative dose.
    """
    if plates not in PLATES:
        raise InputError(f"plates {plates!r}: expected one of {', '.join(PLATES)}")
    try:
        return _read_images(study, _records(study, rules or NameRules()), plates, voxel_mm)
    except NoTargetError as error:
        raise NoTargetError(error.names, f"case {study.case_id}: ") from None
    except InputError as error:
        text = str(error)
        raise InputError(text if study.case_id in text else f"case {study.case_id}: {text}") from None


@dataclass(frozen=True, kw_only=True)
class _Records:
    """What a study's structure set and plan say: structures by the name that the model knows them by, and the plan."""

    rois: Mapping[str, Roi] = field(repr=False)
    names: tuple[NameRow, ...]
    plan: Plan | None
    notes: tuple[str, ...]


def _records(study: DicomStudy, rules: NameRules) -> _Records:
    """Parse structure set and plan, each once."""
    if study.problems:
        raise InputError("; ".join(study.problems))
    assert study.structures is not None
    by_number = {roi.number: roi for roi in _part(read_rois, study.structures)}
    plan = None if study.plan is None else _part(read_plan, study.plan)
    prescribed, notes = _plan_prescriptions(study, plan)
    names = name_table(list(by_number.values()), prescribed, rules)
    if any(row.how == PLAN_NOT_NAME for row in names):
        notes.append("a target's name says another level than the plan prescribes to it; the plan's is used")
    used = {row.tg263: by_number[row.number] for row in names if row.used}
    notes += [f"{name}: no contours" for name, roi in used.items() if not len(roi.counts)]
    rois = {name: roi for name, roi in used.items() if len(roi.counts)}
    return _Records(rois=rois, names=names, plan=plan, notes=(*study.notes, *notes))


def _part(task: Callable[[Path], T], header: Header) -> T:
    """Return what ``task`` makes of a file; put the file's kind before an error's text."""
    try:
        return worker().read(task, header.path)
    except InputError as error:
        raise InputError(f"{header.kind}: {error}") from None


def _plan_prescriptions(study: DicomStudy, plan: Plan | None) -> tuple[tuple[Prescription, ...], list[str]]:
    """Return the plan's prescriptions. If the plan refers to another structure set, its structure numbers mean nothing
    here."""
    if plan is None:
        return (), []
    assert study.plan is not None
    assert study.structures is not None
    if study.structures.uid in study.plan.refers or all(p.roi is None for p in plan.prescriptions):
        return plan.prescriptions, []
    note = "prescriptions: by the targets' names alone: the plan refers to another structure set"
    return tuple(replace(p, roi=None) for p in plan.prescriptions), [note]


def _read_images(study: DicomStudy, records: _Records, plates: str, voxel_mm: float) -> Reading:
    """Bring the study's images and contours onto one grid, step by step."""
    rois, plan, notes = records.rois, records.plan, [*records.notes]
    levels = _levels_gy(records)
    ct = stack(study.ct)
    grid = grid_about(ct, rois.get(BODY), [rois[name] for name in levels], voxel_mm)
    masks, empty = structure_masks(ct.lattice, grid, rois, levels)
    levels = {name: level for name, level in levels.items() if name in masks}
    if not levels:
        raise InputError("no target has a voxel within the CT and the body's outline; look at its contours")
    targets = [(masks[name], level) for name, level in levels.items()]
    hu = ct_hu(worker(), ct, grid)
    dose, dose_notes = plan_dose(worker(), study.doses, plan, grid)
    body, body_notes = body_mask(masks.pop(BODY, None), hu, [mask for mask, _ in targets])
    position = next((header.position for header in study.ct if header.position), "")
    beam, angle, plate_notes = plan_plates(plan, position, targets, grid, plates)
    case = Case(
        case_id=study.case_id,
        grid=grid,
        body=body,
        structures=masks,
        prescriptions_gy=levels,
        ct_hu=hu,
        beam_plate=beam,
        angle_plate=angle,
        gantry_deg=() if plan is None or beam is None else plan_angles(plan, position),
        dose_gy=None if dose is None else np.where(body, dose, np.float32(0)),
    )
    notes += [*ct.notes, *empty, *dose_notes, *body_notes, *plate_notes]
    return Reading(case=case, names=records.names, plan=plan, notes=tuple(notes))


def _levels_gy(records: _Records) -> dict[str, float]:
    """Prescription in Gy of every target that has contours. Raises NoTargetError for none."""
    levels = {
        row.tg263: row.prescription_gy
        for row in records.names
        if row.used and row.tg263 in records.rois and is_target(row.tg263) and row.prescription_gy is not None
    }
    if not levels:
        raise NoTargetError(records.names)
    if len(levels) > MAX_TARGETS:
        raise InputError(f"{len(levels)} targets with prescriptions; expected at most {MAX_TARGETS}; ignore some")
    return levels
