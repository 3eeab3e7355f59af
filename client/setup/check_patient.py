"""One patient as `client check` sees it: usable or not, why not, what to do, and what it adds to the cohort's picture.

A patient is usable when its case can be read, can be trained on (targets, CT, dose) and its dose fits its prescription.
Texts name a patient only by pseudonym and hold no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from client.names.rows import NameRow
from shared_model.adapter.envelope import Envelope
from shared_model.patient.case import Case, content_hash
from shared_model.prediction.regrid import coarsen
from shared_model.scoring.dosimetry import dose_at_volume, structure_dose

# D50 of a target over its own prescription (0.91 to 1.18 in OpenKBP's, also in lower ones): beyond these the dose is of
# something else (a fraction, one of several plans, another unit). D95 below the second gets a note only: some hospitals
# do treat like that.
D50_RANGE = (0.75, 1.25)
LEAST_D95 = 0.90
_MISFIT = "is it one fraction, one plan of several, another unit? export the whole plan's dose"
# A grid much larger wastes memory, and one much smaller holds too little.
FEW_SLICES = 8


@dataclass(frozen=True, kw_only=True)
class CheckedPatient:
    """One row of the table. ``why`` it is not usable and what to do are in the same order; ``notes`` are for a person.

    ``record`` is the hospital's own name for it (file or plan), shown only with --show-ids. ``content`` and ``images``
    are hashes that find duplicates. ``names`` is the review table of its structures, if their names are free.
    """

    patient: str
    why: tuple[str, ...] = ()
    todo: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    record: str = field(repr=False, default="")
    content: str = field(repr=False, default="")
    images: str = field(repr=False, default="")
    names: tuple[NameRow, ...] = field(repr=False, default=())

    @property
    def usable(self) -> bool:
        """Whether it can be trained on."""
        return not self.why

    def to_json(self, *, show_ids: bool) -> dict[str, Any]:
        """The row as JSON values."""
        row: dict[str, Any] = {"patient": self.patient, "usable": self.usable, "why": list(self.why)}
        row |= {"todo": list(self.todo), "notes": list(self.notes), **self.numbers}
        return row | ({"record": self.record} if show_ids else {})


def unreadable(patient: str, reasons: Sequence[str], record: str = "") -> CheckedPatient:
    """Make the row of a patient whose case could not be read. Our errors say what is wrong, then what to do; where one
    does not, looking at the file is all that is left."""
    parts = [reason.rpartition("; ") for reason in reasons]
    return CheckedPatient(
        patient=patient,
        why=tuple(what or todo for what, _, todo in parts),
        todo=tuple(todo if what else "look at the files of the plan (--show-ids)" for what, _, todo in parts),
        record=record,
    )


def examine(
    case: Case,
    envelope: Envelope | None,
    notes: tuple[str, ...] = (),
    record: str = "",
    names: tuple[NameRow, ...] = (),
    untrainable: tuple[str, ...] = (),
) -> CheckedPatient:
    """Check one case that could be read. ``envelope`` is that of the adapter in use: it only adds notes.
    ``untrainable``: what its reader found against training on it."""
    found = [(what or todo, todo) for what, _, todo in (text.rpartition("; ") for text in untrainable)]
    if not case.targets:
        found.append(("no target with a prescription", "map the target's name or give its prescription"))
    if case.ct_hu is None:
        found.append(("no CT", "export the CT that the structures were drawn on"))
    if case.dose_gy is None and not untrainable:
        found.append(("no dose", "export the plan's RTDOSE; without it the case is for prediction only"))
    if case.grid.shape[0] < FEW_SLICES:
        found.append((f"{case.grid.shape[0]} slices", f"export at least {FEW_SLICES}"))
    misfits, told = _dose_against_prescription(case)
    # As `client predict` will check it: on voxels of the training patients' size.
    verdict = None if envelope is None else envelope.judge(coarsen(case, envelope.factors(case)))
    near = () if verdict is None else (*verdict.refusals, *verdict.notes)
    return CheckedPatient(
        patient=case.case_id,
        why=tuple(what for what, _ in (*found, *misfits)),
        todo=tuple(todo for _, todo in (*found, *misfits)),
        notes=(*notes, *told, *(f"for prediction: {text}" for text in near)),
        numbers=_numbers(case),
        record=record,
        content=content_hash(case),
        images=_image_hash(case),
        names=names,
    )


def _dose_against_prescription(case: Case) -> tuple[list[tuple[str, str]], list[str]]:
    """((what is wrong, what to do), ...) and notes."""
    if case.dose_gy is None or not case.targets:
        return [], []
    low, high = D50_RANGE
    misfits = []
    for name in case.targets:
        level, d50 = case.prescriptions_gy[name], _of_target(case, name, 50.0)
        if not low <= d50 / level <= high:
            what = f"dose does not fit the prescription: {name} D50 {d50:.1f} Gy, prescribed {level:.1f} Gy"
            misfits.append((what, _MISFIT))
    if misfits:
        return misfits, []
    notes = []
    for target in case.targets:
        reached = _of_target(case, target, 95.0) / case.prescriptions_gy[target]
        if reached < LEAST_D95:
            notes.append(f"{target}: D95 is {100 * reached:.0f}% of the prescription")
    return [], notes


def _of_target(case: Case, name: str, volume_percent: float) -> float:
    assert case.dose_gy is not None
    mask = case.structures[name]
    if not mask.any():
        return 0.0
    inside = structure_dose(torch.from_numpy(case.dose_gy)[None], torch.from_numpy(mask))
    return float(dose_at_volume(inside, volume_percent)[0])


def _numbers(case: Case) -> dict[str, Any]:
    voxel = case.grid.voxel_cc
    numbers: dict[str, Any] = {
        "shape": list(case.grid.shape),
        "spacing_mm": [round(s, 3) for s in case.grid.spacing_mm],
        "body_cc": round(float(case.body.sum()) * voxel),
        "prescriptions_gy": {name: case.prescriptions_gy[name] for name in case.targets},
        "structures": sorted(name for name, mask in case.structures.items() if mask.any()),
        "targets_cc": round(float((case.ptv_gy() > 0).sum()) * voxel, 1),
        "plates": case.beam_plate is not None,
    }
    if case.dose_gy is not None and case.targets:
        numbers["dose_max_gy"] = round(float(case.dose_gy.max()), 2)
        numbers["d95_gy"] = {name: round(_of_target(case, name, 95.0), 2) for name in case.targets}
    return numbers


def _image_hash(case: Case) -> str:
    if case.ct_hu is None:
        return ""
    return hashlib.sha256(np.ascontiguousarray(case.ct_hu).tobytes()).hexdigest()


def mark_duplicates(patients: list[CheckedPatient]) -> list[CheckedPatient]:
    """Return the same rows. If contents are equal, only the first is usable; equal images get a note."""
    first: dict[str, str] = {}
    images: dict[str, str] = {}
    rows = []
    for row in patients:
        twin = first.setdefault(row.content, row.patient) if row.content else row.patient
        shared = images.setdefault(row.images, row.patient) if row.images else row.patient
        if twin != row.patient:
            row = replace(row, why=(*row.why, f"the same content as {twin}"), todo=(*row.todo, "keep one of the two"))
        elif shared != row.patient:
            note = f"the same CT as {shared}: keep both on the same side of the split"
            row = replace(row, notes=(*row.notes, note))
        rows.append(row)
    return rows
