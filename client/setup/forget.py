"""`client forget PATIENT`: removes a patient from the site's lists and derived files, and says what stays.

The patient's own files are the hospital's and are not touched. What was learned from the patient is in every adapter
since, here and at the other sites. That cannot be undone, and the command says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.data.site_file import site_text
from client.site.config import DICOM, GDP, SiteConfig
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.flower.processes import is_running
from shared_model.core.errors import InputError
from shared_model.core.files import PUBLIC, write_json, write_text

# Folders in the site's cache. Latents, base doses and what training keeps (client/training/between_rounds.py) are not
# named by patient: all are deleted, and made again for the patients that stay.
BY_CONTENT = ("latents", "base", "between_rounds")
# Kept cases of DICOM studies (client/data/dicom_cohort.py).
CASES = "cases"


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was done: case ids removed from the lists, derived files deleted; and what stays, in sentences."""

    patient: str
    cases: tuple[str, ...]
    deleted: int
    stays: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "patient": self.patient,
            "cases": list(self.cases),
            "derived_files_deleted": self.deleted,
            "stays": list(self.stays),
        }


def forget(home: ClientHome, patient: str) -> Forgotten:
    """Forget every case of ``patient``, a pseudonym: a case id, or the part of DICOM and GDP-HMM case ids before the
    underscore. If ``plans`` groups cases as one patient's, any of them names all.

    Raises InputError if the site runs (its memory holds patients), if no such case is listed, or if no patient would be
    left. The lists are changed last, so that an interrupted call can be repeated.
    """
    if is_running(home.lock):
        raise InputError(f"{home.folder}: `client start` runs, and its memory holds patients; stop it first")
    config = SiteConfig.load(home.site_config)
    cases = _cases_of(patient, config)
    if not cases:
        raise InputError(f"{home.site_config}: no case of {patient}; look with `client check --home {home.folder}`")
    left = _without(config, cases, home.site_config)
    deleted = sum(_delete_derived(cache, cases) for cache in _caches(home, config))
    deleted += _delete([home.kept_plans / f"{case}{end}" for case in cases for end in (".npz", ".json")])
    _note(home.folder, (patient, *(case for case in cases if not is_of(case, patient, config.data))))
    write_text(home.site_config, site_text(left), mode=PUBLIC)
    return Forgotten(patient=patient, cases=cases, deleted=deleted, stays=tuple(_stays(home, left)))


def _cases_of(patient: str, config: SiteConfig) -> tuple[str, ...]:
    """Return the listed cases of a patient, with those that site.yaml lists as plans of the same patient."""
    listed = (*config.train, *config.validation)
    named = {case for case in listed if is_of(case, patient, config.data)}
    named |= {case for group in config.plans if named & set(group) for case in group}
    return tuple(case for case in listed if case in named)


def is_of(case_id: str, patient: str, data: str) -> bool:
    """Whether a case is this patient's: the same id, or PATIENT_PLAN in DICOM and GDP-HMM data."""
    return case_id == patient or (data in (DICOM, GDP) and case_id.startswith(f"{patient}_"))


def _without(config: SiteConfig, cases: tuple[str, ...], where: Path) -> SiteConfig:
    """``config`` without ``cases``. Raises InputError when nobody is left."""
    train, validation = (tuple(c for c in split if c not in cases) for split in (config.train, config.validation))
    if not train and not validation:
        raise InputError(f"{where}: no patient would be left; to remove the whole site use `client leave`")
    plans = tuple(group for group in config.plans if not set(group) & set(cases))
    return replace(config, train=train, validation=validation, plans=plans)


def forgotten(folder: Path) -> Mapping[str, str]:
    """Return the patients that the site in ``folder`` has forgotten: pseudonym -> date."""
    try:
        return dict(json.loads(_list(folder).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{_list(folder)}: cannot be read; expected pseudonyms and dates in JSON") from error


def _list(folder: Path) -> Path:
    return folder / "forgotten.json"


def _note(folder: Path, patients: Iterable[str]) -> None:
    content = {**forgotten(folder), **dict.fromkeys(patients, datetime.now(UTC).date().isoformat())}
    write_json(_list(folder), content)


def _caches(home: ClientHome, config: SiteConfig) -> tuple[Path, ...]:
    """Return the site's cache and, if it has none, the caches of its private alignments (client/adapters/align.py)."""
    own = () if config.cache is None else (config.cache,)
    return (*own, *(home.folder / "private").glob("*/cache"))


def _delete_derived(cache: Path, cases: tuple[str, ...]) -> int:
    """Delete these cases' kept case files and all files named by content; return how many files there were."""
    files = [path for case in cases for path in (cache / CASES).glob(f"{case}-*.npz")]
    files += [path for folder in BY_CONTENT for path in (cache / folder).rglob("*") if path.is_file()]
    return _delete(files)


def _delete(files: Iterable[Path]) -> int:
    there = [path for path in files if path.is_file()]
    for path in there:
        path.unlink()
    return len(there)


def _stays(home: ClientHome, left: SiteConfig) -> list[str]:
    lines = [
        "the patient's own files: they are the hospital's, and were not touched",
        "what left the site while the patient was listed: updates that others have summed cannot be taken back, and"
        " adapters trained with them may remember the patient; only training anew would undo that",
        "adapters of this site that were made before today, and what `client predict`, `client check` and `client"
        " align` wrote elsewhere, with the alignment's cache: delete them there",
        "backups of this folder, and what the disk keeps of deleted files",
    ]
    least = Policy.load(home.policy).least_patients
    if (patients := len(left.patients())) < least:
        lines.append(f"policy: {patients} training patients are fewer than least_patients ({least}): refused now")
    return lines
