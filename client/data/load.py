"""From files to validated Cases: the one table of how each kind of data is read, and a site's patients by case id.

``read_file`` reads a file, ``read_case`` (client/dicom/study.py) a DICOM study. client/data/kinds.py tells the kind of
data. `client check`, `client predict`, `client align` and training all read through here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from client.data import case_files, dicom_cohort
from client.data.gdp import read_gdp
from client.data.left_out import UnreadableCasesError
from client.data.openkbp import read_openkbp
from client.dicom.study import Reading
from client.names.rules import NameRules
from client.site.config import DATA_FOLDERS, DICOM, GDP, SiteConfig, case_id_of, check_case_id, is_case_id
from shared_model.core.errors import InputError
from shared_model.patient.case import Case

SPLITS = ("train", "validation")
SITE_LOG = logging.getLogger("fedkt3d.site")  # stays at the site (client/node/site_log.py)
Made = TypeVar("Made")


def _case_file(path: Path, case_id: str, rules: NameRules) -> Reading:
    return Reading(case=case_files.load_case(path))


def _openkbp(path: Path, case_id: str, rules: NameRules) -> Reading:
    return Reading(case=read_openkbp(path, case_id))


def _gdp(path: Path, case_id: str, rules: NameRules) -> Reading:
    case, names = read_gdp(path, case_id, rules)
    return Reading(case=case, names=names)


# How one patient's file of each kind is read, given its case id and the site's rules for structure names.
READERS: dict[str, Callable[[Path, str, NameRules], Reading]] = {
    "cases": _case_file,
    "openkbp": _openkbp,
    "openkbp128": _openkbp,
    GDP: _gdp,
}


def read_file(kind: str, path: Path, rules: NameRules | None = None, *, listed: bool = False) -> Reading:
    """Read one patient's file of ``kind``. ``listed``: the site knows the patient by the file's name, so that a case
    file must hold the case of that name.

    Raises InputError naming the file and what is wrong: a name that is not a pseudonym, another case, bad content.
    """
    if kind == DICOM:
        raise InputError(f"{path}: is a file; give the folder with all DICOM files of the plan")
    case_id = case_id_of(kind, path)
    if (listed or kind != "cases") and not is_case_id(case_id):
        raise InputError(
            f"{path}: the file is not named by a pseudonym; rename it: letters, digits, _ and - (gdp: and +)"
        )
    reading = READERS[kind](path, case_id, rules or NameRules())
    if listed and reading.case.case_id != case_id:  # do not say whose: that name may be a person's
        raise InputError(f"{path}: the file holds a case of another name; was it renamed? give it its own name back")
    return reading


def case_path(site: SiteConfig, case_id: str) -> Path:
    """The file of a case, at a site that keeps a file for each.

    Raises InputError if ``case_id`` is not a pseudonym, or if not exactly one of GDP-HMM's files has it.
    """
    folder = site.root / DATA_FOLDERS[site.data]
    check_case_id(case_id, f"site {site.site}")
    if site.data != GDP:
        return folder / f"{case_id}.npz"
    paths = [path for path in folder.glob("*.npz") if case_id_of(GDP, path) == case_id]
    if len(paths) != 1:
        raise InputError(f"{folder}: {len(paths)} files are called {case_id} with + or _; expected one")
    return paths[0]


def load_case(site: SiteConfig, case_id: str) -> Case:
    """Read one case of ``site``. Raises InputError naming the file, of DICOM the case, and what is wrong with it."""
    if site.data == DICOM:
        return dicom_cohort.load_case(site, case_id)
    return read_file(site.data, case_path(site, case_id), NameRules.load(site.names), listed=True).case


def or_none(site: SiteConfig, case_id: str, make: Callable[[Case], Made]) -> Made | None:
    """Return ``make(case)``; None if the case cannot be read or used. Only the site's own log says so.

    For answers under differential privacy: whether a site answers must not depend on one patient.
    """
    try:
        return make(load_case(site, case_id))
    except Exception as error:  # whatever one patient's files raise
        number = (*site.train, *site.validation, case_id).index(case_id) + 1  # the id itself may be a name
        what = "case %d of site.yaml cannot be used and counts as zero (%s)"
        SITE_LOG.error(what, number, type(error).__name__, exc_info=error)
        return None


def load_split(site: SiteConfig, split: str) -> list[Case]:
    """All cases of ``train`` or ``validation``, in the order in which the site lists them.

    Raises UnreadableCasesError with all the cases that cannot be read.
    """
    if split not in SPLITS:
        raise InputError(f"site {site.site}: split {split!r}: expected one of {', '.join(SPLITS)}")
    case_ids: tuple[str, ...] = getattr(site, split)
    cases: list[Case] = []
    unreadable: dict[str, str] = {}
    for case_id in case_ids:
        try:
            cases.append(load_case(site, case_id))
        except InputError as error:
            unreadable[case_id] = str(error)
    if unreadable:
        raise UnreadableCasesError(unreadable)
    return cases
