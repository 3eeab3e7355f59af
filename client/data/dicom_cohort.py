"""A site's DICOM folder as a cohort: from pseudonyms to Cases. Each is read from DICOM once, then kept as a case file.

``cache/cases/CASE-DIGEST.npz`` holds arrays, spacing, TG-263 names and the pseudonym, and nothing else of the record.
The digest covers the study's files (path, size, time of change), the site's file of names and the reader's version, so
that a changed study is read again. Only its owner can read the folder, which may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from client.data import case_files
from client.data.kept import latest_per_site
from client.dicom.find import Findings, find_studies
from client.dicom.join import DicomStudy
from client.dicom.study import read_case, read_names
from client.names.rules import NameRules
from client.names.tg263 import synonyms_digest
from client.site.config import SiteConfig
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import is_target
from shared_model.patient.case import Case

# Raise this number when equal files would become another Case.
FORMAT = 4


def load_case(site: SiteConfig, case_id: str) -> Case:
    """The Case of one of the site's studies. Raises InputError naming it by its pseudonym, and what is wrong."""
    study = findings(site).study(case_id)
    if site.cache is None:
        return read_case(study, NameRules.load(site.names)).case
    path = case_file(site.cache, study, site.names)
    if path.is_file():
        try:
            return case_files.load_case(path)
        except InputError:
            path.unlink(missing_ok=True)  # damaged: make it again
    case = read_case(study, NameRules.load(site.names)).case
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in path.parent.glob(f"{case_id}-*.npz"):
        old.unlink(missing_ok=True)  # another process, as of `client adopt`, may have been first
    case_files.save_case(path, case)
    return case


@latest_per_site
def findings(site: SiteConfig) -> Findings:
    """Return the studies of the site's folder; each process searches once."""
    assert site.pseudonyms is not None  # SiteConfig has checked
    return find_studies(site.root, Pseudonyms.from_file(site.pseudonyms))


def case_file(cache: Path, study: DicomStudy, names: Path | None) -> Path:
    """Return where the Case of ``study`` is kept, given the state of its files, the site's names and our own table."""
    parts = (*study.ct, study.structures, study.plan, *study.doses)
    files = [header.path for header in parts if header is not None]
    digest = hashlib.sha256(json.dumps([FORMAT, [_state(path) for path in files]]).encode())
    digest.update(synonyms_digest())
    digest.update(names.read_bytes() if names is not None and names.is_file() else b"")
    return cache / "cases" / f"{study.case_id}-{digest.hexdigest()[:16]}.npz"


def _state(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"a file of the study can no longer be read ({error.strerror}); start again") from None
    return (str(path), status.st_size, status.st_mtime_ns)


def trainable(found: Findings, rules: NameRules) -> tuple[str, ...]:
    """Return the case ids that can be trained on: those with dose and a prescribed target. Only one case of each
    patient is taken, since a patient must not count twice: the first by id, of an approved plan if there is one."""
    chosen: dict[str, str] = {}
    for study in sorted(found.studies, key=lambda study: not study.approved):
        if study.patient not in chosen and not study.problems and study.doses and _has_target(study, rules):
            chosen[study.patient] = study.case_id
    return tuple(sorted(chosen.values()))


def _has_target(study: DicomStudy, rules: NameRules) -> bool:
    try:
        return any(row.used and is_target(row.tg263) for row in read_names(study, rules))
    except Exception:  # one bad patient must not stop the others; `client check` says what is wrong
        return False
