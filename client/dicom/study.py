"""DICOM-RT in: the studies below a folder, and one study as a Case.

``find_studies(root)`` looks at every file below a folder and joins them into studies, never raising for a bad file.
``read_case(study)`` reads one of them: CT, structures by TG-263 name, plates from the plan's beams, dose; on one grid
in mm, LPS, resampled once. ``read_source`` gives the data set of a file of the study, for writing an RTDOSE beside it.

Files are parsed in a process of their own (client/dicom/worker.py). No exception, note or problem here holds a name, an
id or a path; headers do, and stay at the site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset

from client.dicom.beams import PLATES, draw_plates
from client.dicom.find import FileProblem, Findings, Study, find
from client.dicom.headers import Header, read_header
from client.dicom.images import VOXEL_MM, CtStack, case_grid, ct_hu, dose_gy, dose_lattice, read_dose, stack
from client.dicom.masks import Rasteriser, box_mm, skin
from client.dicom.open import open_source
from client.dicom.parts import DoseGrid, read_rois
from client.dicom.plan import Plan, read_plan
from client.dicom.worker import AT_ONCE, Worker, worker
from client.names.records import Prescription, Roi
from client.names.rules import NameRules
from client.names.table import PLAN_NOT_NAME, NameRow, name_table
from client.names.tg263 import BODY
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.patient.anatomy import is_target
from shared_model.patient.case import Case, Mask, Volume
from shared_model.patient.geometry import Grid

T = TypeVar("T")

__all__ = [
    "FileProblem",
    "Findings",
    "NoTargetError",
    "Reading",
    "Study",
    "find_studies",
    "read_case",
    "read_names",
    "read_source",
]

# Along the body's length a Case ends this far beyond its targets: further out coplanar beams leave scatter alone.
FIELD_MARGIN_MM = 50.0
# Levels of dose that one plan prescribes.
MAX_TARGETS = 12


class NoTargetError(InputError):
    """A study without a target: ``names`` is its review table, where the reason stands."""

    def __init__(self, names: tuple[NameRow, ...], front: str = "") -> None:
        super().__init__(
            f"{front}no target with a prescription; look at its structures' names (client check --show-ids) and set"
            " prescriptions_gy in the site's file of names"
        )
        self.names = names


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A study that was read. ``names`` is the review table of its structures, ``plan`` what its RTPLAN says (None
    without one), ``notes`` what was assumed or left out, each one line without a name or id."""

    case: Case
    names: tuple[NameRow, ...]
    plan: Plan | None
    notes: tuple[str, ...]


def find_studies(root: Path, pseudonyms: Pseudonyms | None = None) -> Findings:
    """All studies below ``root``, joined by references and Frame of Reference, and every file that cannot be used.

    Case ids are made by ``pseudonyms``; without, they hold for this call alone. Never raises for a bad file, only if
    ``root`` is no folder. Takes no pixel of an image.
    """
    return find(root, pseudonyms or Pseudonyms.passing(), _headers)


def _headers(paths: Iterable[Path]) -> Iterator[tuple[Path, Header | FedKT3DError]]:
    remaining = iter(paths)
    while part := list(islice(remaining, AT_ONCE)):
        yield from zip(part, worker().read_many(read_header, part), strict=True)


def read_source(header: Header) -> Dataset:
    """The data set of one file of a study without its pixels: the patient, study and references that an RTDOSE must
    repeat. Raises InputError if the file can no longer be read."""
    return worker().read(open_source, header.path)


def read_names(study: Study, rules: NameRules | None = None) -> tuple[NameRow, ...]:
    """The review table of a study's structures alone. Raises InputError if it has none that can be read."""
    return _Study(study, rules or NameRules(), worker()).names


def read_case(
    study: Study, rules: NameRules | None = None, *, plates: str = "fast", voxel_mm: float = VOXEL_MM
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
        return _Study(study, rules or NameRules(), worker()).reading(plates, voxel_mm)
    except NoTargetError as error:
        raise NoTargetError(error.names, f"case {study.case_id}: ") from None
    except InputError as error:
        text = str(error)
        raise InputError(text if study.case_id in text else f"case {study.case_id}: {text}") from None


class _Study:
    """One study while it is read."""

    def __init__(self, study: Study, rules: NameRules, parse: Worker) -> None:
        if study.problems:
            raise InputError("; ".join(study.problems))
        assert study.structures is not None
        self._study, self._worker = study, parse
        self._notes = list(study.notes)
        self._rois = {roi.number: roi for roi in _part(parse, read_rois, study.structures)}
        self.plan = None if study.plan is None else _part(parse, read_plan, study.plan)
        self.names = name_table(list(self._rois.values()), self._prescriptions(), rules)
        if any(row.how == PLAN_NOT_NAME for row in self.names):
            self._notes.append("a target's name says another level than the plan prescribes to it; the plan's is used")

    def _prescriptions(self) -> tuple[Prescription, ...]:
        """The plan's; of another structure set than the one that it names its structures' numbers say nothing."""
        if self.plan is None:
            return ()
        assert self._study.plan is not None
        assert self._study.structures is not None
        prescribed = self.plan.prescriptions
        if self._study.structures.uid in self._study.plan.refers or all(p.roi is None for p in prescribed):
            return prescribed
        self._notes.append("prescriptions: by the targets' names alone: the plan refers to another structure set")
        return tuple(replace(p, roi=None) for p in prescribed)

    def reading(self, plates: str, voxel_mm: float) -> Reading:
        rois = self._used()
        targets = {row.tg263: row.prescription_gy for row in self.names if row.used and row.tg263 in rois}
        levels = {name: level for name, level in targets.items() if level is not None and is_target(name)}
        if not levels:
            raise NoTargetError(self.names)
        if len(levels) > MAX_TARGETS:
            raise InputError(f"{len(levels)} targets with prescriptions; expected at most {MAX_TARGETS}; ignore some")
        ct = stack(self._study.ct)
        self._notes += ct.notes
        grid = self._grid(ct, rois, [rois[name] for name in levels], voxel_mm)
        masks = self._masks(Rasteriser(ct.lattice, grid), rois, levels)
        levels = {name: level for name, level in levels.items() if name in masks}
        if not levels:
            raise InputError("no target has a voxel within the CT and the body's outline; look at its contours")
        hu = ct_hu(self._worker, ct, grid)
        dose = self._dose(grid)
        body = self._body(masks.pop(BODY, None), hu, masks, levels, grid)
        beam, angle = self._plates(masks, levels, grid, plates)
        case = Case(
            case_id=self._study.case_id,
            grid=grid,
            body=body,
            structures=masks,
            prescriptions_gy=levels,
            ct_hu=hu,
            beam_plate=beam,
            angle_plate=angle,
            dose_gy=None if dose is None else np.where(body, dose, np.float32(0)),
        )
        return Reading(case=case, names=self.names, plan=self.plan, notes=tuple(self._notes))

    def _used(self) -> dict[str, Roi]:
        """Structures by the name that the model knows them by."""
        used = {}
        for row in self.names:
            roi = self._rois[row.number]
            if row.used and len(roi.counts):
                used[row.tg263] = roi
            elif row.used:
                self._notes.append(f"{row.tg263}: no contours")
        return used

    def _grid(self, ct: CtStack, rois: dict[str, Roi], targets: Sequence[Roi], voxel_mm: float) -> Grid:
        """Over the body's outline (else the whole CT) in the slices of the targets and FIELD_MARGIN_MM about."""
        around = box_mm([rois[BODY]]) if BODY in rois else None
        low, high = (around[0].copy(), around[1].copy()) if around is not None else (*ct.lattice.corners_mm().copy(),)
        reach = box_mm(targets)
        assert reach is not None
        low[0] = max(low[0], reach[0][0] - FIELD_MARGIN_MM)
        high[0] = min(high[0], reach[1][0] + FIELD_MARGIN_MM)
        return case_grid(ct, low, high, voxel_mm)

    def _masks(self, rasteriser: Rasteriser, rois: dict[str, Roi], levels: dict[str, float]) -> dict[str, Mask]:
        """Masks by name; of targets the highest first, each without what the ones above it hold."""
        masks: dict[str, Mask] = {}
        taken: Mask | None = None
        for name in sorted(rois, key=lambda name: (-levels.get(name, 0.0), name)):
            try:
                mask = rasteriser.mask(rois[name])
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            if name in levels:
                mask = mask if taken is None else mask & ~taken
                taken = mask if taken is None else taken | mask
            if mask.any():
                masks[name] = mask
            else:
                self._notes.append(f"{name}: nothing of it lies within the grid, or outside a higher target")
        return masks

    def _body(
        self, drawn: Mask | None, hu: Volume, masks: dict[str, Mask], levels: dict[str, float], grid: Grid
    ) -> Mask:
        if drawn is None:
            self._notes.append(
                "body: no outline was drawn; taken from the CT, couch and mask included where they touch"
            )
            drawn = skin(hu)
        treated = np.logical_or.reduce([masks[name] for name in levels])
        outside = float((treated & ~drawn).sum()) / float(treated.sum())
        if outside > 0.5:
            raise InputError(
                f"{100 * outside:.0f}% of the targets lie outside the body's outline; is another structure, such as a"
                " shell of skin, taken as the body? name the right one Body in the site's file of names"
            )
        if outside > 0.05:
            self._notes.append(f"targets: {100 * outside:.0f}% lie outside the body's outline")
        return np.asarray(drawn)

    def _dose(self, grid: Grid) -> Volume | None:
        if not self._study.doses:
            return None
        grids, notes = read_dose(self._worker, self._study.doses, self.plan)
        self._notes += notes
        total, covered = np.zeros(grid.shape, dtype=np.float32), True
        for dose in grids:
            total += dose_gy(dose, grid)
            covered &= _covers(dose, grid)
        if not covered:
            self._notes.append("dose: its grid ends within the body near the targets; outside it counts as 0 Gy")
        return np.asarray(np.maximum(total, 0.0))

    def _plates(
        self, masks: dict[str, Mask], levels: dict[str, float], grid: Grid, kind: str
    ) -> tuple[Volume | None, Volume | None]:
        if self.plan is None:
            return None, None
        highest = max(levels.values())
        weights = np.max([masks[name] * np.float32(level / highest) for name, level in levels.items()], axis=0)
        position = self.plan.position or next((h.position for h in self._study.ct if h.position), "")
        try:
            drawn = draw_plates(self.plan, position, weights, grid, kind)
        except InputError as error:
            self._notes.append(f"no plates: {error}")
            return None, None
        if drawn is None:
            self._notes.append("no plates: the plan has no photon beams")
            return None, None
        self._notes += drawn[2]
        return drawn[0], drawn[1]


def _covers(dose: DoseGrid, grid: Grid) -> bool:
    """Whether every voxel centre of the grid lies within the dose grid, give or take a voxel."""
    low, high = dose_lattice(dose).corners_mm()
    slack = np.array(grid.spacing_mm) * 1.01
    first = np.array(grid.origin_mm)
    last = first + np.array(grid.spacing_mm) * (np.array(grid.shape) - 1)
    return bool((low <= first + slack).all() and (high >= last - slack).all())


def _part(parse: Worker, task: Callable[[Path], T], header: Header) -> T:
    """What ``task`` makes of a file, its kind put before the text of an error."""
    try:
        return parse.read(task, header.path)
    except InputError as error:
        raise InputError(f"{header.kind}: {error}") from None
