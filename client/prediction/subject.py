"""Reads the input of `client predict`: one patient's file of any kind, or one plan of a DICOM folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from client.data.kinds import patient_kind
from client.data.load import read_file
from client.dicom.find import Findings, find_studies
from client.dicom.join import DicomStudy
from client.dicom.plan import Plan
from client.dicom.study import read_case, read_source
from client.dicom.write import Origin
from client.names.review import not_known_notes
from client.names.rules import NameRules
from client.site.config import DATA_KINDS, DICOM
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from shared_model.patient.case import Case


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A case, where its dose belongs (None if it did not come from DICOM), and what was assumed in reading it."""

    case: Case
    origin: Origin | None = field(repr=False, default=None)
    notes: tuple[str, ...] = ()


def load_subject(
    path: Path,
    case_id: str | None = None,
    pseudonyms: Pseudonyms | None = None,
    rules: NameRules | None = None,
    kind: str | None = None,
) -> Subject:
    """Read ``path`` as data of ``kind`` (default: told from the files). ``case_id``, a pseudonym of the site, chooses
    among the plans of a DICOM folder. ``rules`` are the site's own for structure names.

    Raises InputError if there is nothing to predict for, or if there are several plans and no choice.
    """
    if kind is not None and kind not in DATA_KINDS:
        raise InputError(f"--kind {kind}: expected one of {', '.join(DATA_KINDS)}")
    if path.is_file():
        reading, origin = read_file(kind or patient_kind(path), path, rules), None
    elif not path.is_dir():
        raise InputError(f"{path}: no such file or folder; expected one patient's file, or a folder of DICOM files")
    elif kind not in (None, DICOM) or patient_kind(path) != DICOM:
        raise InputError(f"{path}: is a folder; give the file of one patient in it")
    else:
        study = _choose(find_studies(path, pseudonyms), path, case_id, salted=pseudonyms is not None)
        reading = read_case(study, rules)
        origin = _origin(study, reading.plan, path)
    return Subject(case=reading.case, origin=origin, notes=(*reading.notes, *not_known_notes(reading.names)))


def _origin(study: DicomStudy, plan: Plan | None, path: Path) -> Origin:
    """Return where a dose of the study belongs: to its plan or, without one, to its structure set."""
    if plan is not None:
        return Origin(study=plan.identity, frame_of_reference=_frame(study, path), plan=plan.identity)
    assert study.structures is not None  # or it would not have been read
    return Origin(study=read_source(study.structures), frame_of_reference=_frame(study, path))


def _frame(study: DicomStudy, path: Path) -> str:
    """Return the Frame of Reference of the study's dose. An anonymised CT may have lost its own."""
    for header in (study.ct[0], study.plan, study.structures):
        if header is not None and header.frames:
            return header.frames[0]
    raise InputError(
        f"{path}: no file of the plan has a Frame of Reference, so no viewer could lay a predicted dose on its CT;"
        " export it again with FrameOfReferenceUID"
    )


def _choose(findings: Findings, path: Path, case_id: str | None, *, salted: bool) -> DicomStudy:
    if case_id is not None:
        return findings.study(case_id)
    able = [study for study in findings.studies if not study.problems]
    if len(able) == 1:
        return able[0]
    if able:
        choice = ", ".join(study.case_id for study in able[:20])
        # Without the site's salt, case ids last for this call only: nobody can choose by them.
        ids = f"--case with one of {choice}" if salted else "--home and --case, an id of `client check --home`"
        raise InputError(f"{path}: holds {len(able)} plans; give the folder of one, or {ids}")
    reasons = sorted({problem for study in findings.studies for problem in study.problems})
    reasons += [problem.reason for problem in findings.problems]
    raise InputError(
        f"{path}: no plan that can be read; {'; '.join(reasons[:5]) or f'{findings.files} files looked at'}"
    )
