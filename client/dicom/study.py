"""DICOM-RT in: one study as a Case, or its structures' names alone.

``read_case(study)`` reads CT, structures by TG-263 name, plates from the plan's beams and dose; on one grid in mm, LPS,
resampled once. ``read_source`` gives the data set of a file of the study, for writing an RTDOSE beside it.

Files are parsed in a process of their own (client/dicom/worker.py). No exception, note or problem here holds a name, an
id or a path; headers do, and stay at the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset

from client.dicom.beams import PLATES, plan_angles, plan_plates
from client.dicom.contours import read_structures
from client.dicom.doses import PlanDose, plan_dose
from client.dicom.headers import Header
from client.dicom.images import VOXEL_MM, ct_hu, grid_about, stack
from client.dicom.join import DicomStudy
from client.dicom.open import open_source
from client.dicom.plan import Plan, read_plan
from client.dicom.worker import worker
from client.names.records import Prescription, Roi
from client.names.rows import NameRow
from client.names.rules import NameRules
from client.names.table import name_table
from client.names.targets import PLAN_NOT_NAME, lost_targets
from client.names.tg263 import BODY
from client.planes.masks import body_mask, structure_masks
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import is_target
from shared_model.patient.case import Case, Mask

T = TypeVar("T")

_NO_TARGET = (
    "no target with a prescription; look at its structures' names (client check --show-ids) and set prescriptions_gy in"
    " the site's file of names"
)
# A structure with more of its voxels outside the dose grid than this is cut by it.
_CUT_SHARE = 0.01
# Levels of dose that one plan prescribes.
MAX_TARGETS = 12


class NoTargetError(InputError):
    """A study without a target, or without one that it must not be read without. ``names`` is its review table."""

    def __init__(self, names: tuple[NameRow, ...], why: str = "", front: str = "") -> None:
        self.names, self.why = names, why or _NO_TARGET
        super().__init__(f"{front}{self.why}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One patient's plan that was read. ``names`` is the review table of its structures (empty where its kind of data
    fixes them), ``plan`` what its RTPLAN says (None without one), ``notes`` what was assumed or left out, each one line
    without a name or id. ``untrainable``: why it must not be trained on, though it can be predicted for."""

    case: Case
    names: tuple[NameRow, ...] = ()
    plan: Plan | None = None
    notes: tuple[str, ...] = ()
    untrainable: tuple[str, ...] = ()


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
        raise NoTargetError(error.names, error.why, f"case {study.case_id}: ") from None
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
    """Parse structure set and plan, each once. Raises NoTargetError where a target is lost that the plan is about."""
    if study.problems:
        raise InputError("; ".join(study.problems))
    assert study.structures is not None
    found = _part(read_structures, study.structures)
    plan = None if study.plan is None else _part(read_plan, study.plan)
    notes = _plan_notes(plan)
    prescribed, told = _plan_prescriptions(study, plan)
    names = name_table(found.rois, prescribed, rules)
    if any(row.how == PLAN_NOT_NAME for row in names):
        told.append("a target's name says another level than the plan prescribes to it; the plan's is used")
    if found.unlisted:
        told.append(f"RTSTRUCT: contours of {found.unlisted} structures without a name were left out")
    if shared := sum(roi.shared_number for roi in found.rois):
        told.append(f"RTSTRUCT: {shared} structures share a ROINumber with another one: none of them is used")
    faults = _faults(found.rois, {frame for header in study.ct for frame in header.frames})
    drawn = {roi.number for roi in found.rois if len(roi.counts)}
    lost, lower = lost_targets(names, prescribed, faults, drawn)
    if lost:
        raise NoTargetError(names, lost[0])
    rois, left_out = _used(found.rois, names, faults)
    return _Records(rois=rois, names=names, plan=plan, notes=(*study.notes, *notes, *told, *lower, *left_out))


def _plan_notes(plan: Plan | None) -> list[str]:
    """Notes on a plan. Raises InputError for one that does not treat with photons alone."""
    if plan is None:
        return []
    if plan.brachytherapy:
        raise InputError(
            "plan: a brachytherapy plan (ApplicationSetupSequence), and only photon plans are used; leave it out"
        )
    others = sorted({beam.radiation for beam in plan.beams} - {"PHOTON", ""})
    if others:
        kinds = ", ".join(kind if kind in ("ELECTRON", "PROTON", "ION", "NEUTRON") else "another" for kind in others)
        raise InputError(f"plan: RadiationType {kinds}, and only plans of photons alone are used; leave it out")
    zero = f"plan: a prescription of 0 Gy to {plan.unprescribed} targets was taken as none"
    return [zero] if plan.unprescribed else []


def _faults(rois: Sequence[Roi], frames: set[str]) -> dict[int, str]:
    """Why the contours of a structure cannot be used, by number."""
    faults = {}
    for roi in rois:
        if roi.fault:
            faults[roi.number] = f"{roi.fault}; draw the structure anew"
        elif roi.frame and frames and roi.frame not in frames:
            faults[roi.number] = (
                "it was drawn in another Frame of Reference (ReferencedFrameOfReferenceUID), such as an MR's; copy it"
                " to the planning CT"
            )
        elif roi.open_shapes:
            faults[roi.number] = (
                f"{roi.open_shapes} of its contours are not closed (ContourGeometricType); close them in the planning"
                " system"
            )
    return faults


def _used(rois: Sequence[Roi], names: Sequence[NameRow], faults: Mapping[int, str]) -> tuple[dict[str, Roi], list[str]]:
    """The structures that are read, by the model's name, those that the site unites as one; and notes on the others."""
    by_number = {roi.number: roi for roi in rois}
    used: dict[str, Roi] = {}
    notes = []
    for row in names:
        if not row.used:
            continue
        roi = by_number[row.number]
        if row.number in faults:
            notes.append(f"{row.tg263}: left out: {faults[row.number]}")
        elif not len(roi.counts):
            notes.append(f"{row.tg263}: no contours")
        else:
            if roi.other_shapes:
                notes.append(f"{row.tg263}: {roi.other_shapes} points, which enclose nothing, were left out")
            first = used.get(row.tg263)
            used[row.tg263] = roi if first is None else replace(first, united=(*first.united, roi))
    return used, notes


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
    drawn = structure_masks(ct.lattice, grid, rois, levels, needed=[BODY])
    if drawn.lost:
        name, why = next(iter(drawn.lost.items()))
        raise NoTargetError(records.names, f"{name}: {why}" if "; " in why else f"{name}: {why}; look at its contours")
    masks = drawn.masks
    levels = {name: level for name, level in levels.items() if name in masks}
    targets = [(masks[name], level) for name, level in levels.items()]
    hu = ct_hu(worker(), ct, grid)
    found = plan_dose(worker(), study.doses, plan, grid)
    body, body_notes = body_mask(masks.pop(BODY, None), hu, [mask for mask, _ in targets])
    cover = _cover(found, body, masks, levels)
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
        dose_gy=None if found is None or cover.untrainable else np.where(body, found.gy, np.float32(0)),
        cut_by_dose=cover.cut,
    )
    notes += [*ct.notes, *drawn.notes, *cover.notes, *body_notes, *plate_notes]
    return Reading(case=case, names=records.names, plan=plan, notes=tuple(notes), untrainable=cover.untrainable)


@dataclass(frozen=True, kw_only=True)
class _Cover:
    """What a dose grid does not cover: organs that it cuts, notes, and why the dose is of no use."""

    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untrainable: tuple[str, ...] = ()


def _cover(dose: PlanDose | None, body: Mask, masks: Mapping[str, Mask], levels: Mapping[str, float]) -> _Cover:
    """Compare structures with the dose grid. A dose that leaves out a part of a target is not used at all."""
    if dose is None:
        return _Cover()
    outside = ~dose.covered
    shares = {name: float(mask[outside].sum()) / float(mask.sum()) for name, mask in masks.items()}
    for name in levels:
        if shares[name] > _CUT_SHARE:
            why = f"dose: its grid covers {100 * (1 - shares[name]):.0f}% of {name}"
            return _Cover(untrainable=(f"{why}; calculate and export the dose on a grid that covers the targets",))
    cut = tuple(sorted(name for name, share in shares.items() if share > _CUT_SHARE))
    notes = list(dose.notes)
    if float(body[outside].sum()) > _CUT_SHARE * float(body.sum()):
        notes.append("dose: its grid ends within the body near the targets; outside it counts as 0 Gy")
    if cut:
        notes.append(f"dose: its grid cuts {', '.join(cut)}: their mean dose and V% are left out")
    return _Cover(cut=cut, notes=tuple(notes))


def _levels_gy(records: _Records) -> dict[str, float]:
    """Prescription in Gy of every target that is read. Raises NoTargetError for none."""
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
