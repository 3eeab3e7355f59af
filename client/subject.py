"""What `client predict` is asked about: one case file, or the one plan that a folder of DICOM files holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from client.case_files import load_case
from client.dicom_read import Findings, Study, find_studies, read_case, read_source
from client.dicom_write import Origin
from client.name_rules import NameRules
from client.pseudonyms import Pseudonyms
from shared_model.case import Case
from shared_model.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A case, where its dose belongs (None for a case file), and what was assumed in reading it."""

    case: Case
    origin: Origin | None = field(repr=False, default=None)
    notes: tuple[str, ...] = ()


def load_subject(
    path: Path, case_id: str | None = None, pseudonyms: Pseudonyms | None = None, rules: NameRules | None = None
) -> Subject:
    """Read ``path``; ``case_id`` chooses among the plans of a folder, by the pseudonyms of the site.

    Raises InputError where there is nothing to predict for, or more than one plan and no choice.
    """
    if path.is_file():
        return Subject(case=load_case(path))
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; expected a case file (.npz) or a folder of DICOM files")
    study = _chosen(find_studies(path, pseudonyms), path, case_id)
    reading = read_case(study, rules)
    assert study.structures is not None  # or it would not have been read
    plan = None if study.plan is None else read_source(study.plan)
    source = read_source(study.structures) if plan is None else plan
    origin = Origin(study=source, frame_of_reference=study.ct[0].frames[0], plan=plan)
    return Subject(case=reading.case, origin=origin, notes=reading.notes)


def _chosen(findings: Findings, path: Path, case_id: str | None) -> Study:
    if case_id is not None:
        return findings.study(case_id)
    able = [study for study in findings.studies if not study.problems]
    if len(able) == 1:
        return able[0]
    if able:
        raise InputError(
            f"{path}: holds {len(able)} plans; give the folder of one, or a home and --case with one of"
            f" {', '.join(study.case_id for study in able[:20])}"
        )
    reasons = sorted({problem for study in findings.studies for problem in study.problems})
    reasons += [problem.reason for problem in findings.problems]
    raise InputError(
        f"{path}: no plan that can be read; {'; '.join(reasons[:5]) or f'{findings.files} files looked at'}"
    )
