"""The patients of a site: from case ids to validated Cases."""

from __future__ import annotations

from pathlib import Path

from client.data import case_files, dicom_cohort
from client.data.gdp import read_gdp
from client.data.openkbp import read_openkbp
from client.names.rules import NameRules
from client.site.config import DATA_FOLDERS, DICOM, GDP, SiteConfig, case_id_of, check_case_id
from shared_model.core.errors import InputError
from shared_model.patient.case import Case

SPLITS = ("train", "validation")


def case_path(site: SiteConfig, case_id: str) -> Path:
    """The file of a case, at a site that keeps a file for each.

    Raises InputError if ``case_id`` is no pseudonym, or of GDP-HMM's files not exactly one has it.
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
    path = case_path(site, case_id)
    if site.data == GDP:
        return read_gdp(path, case_id, NameRules.load(site.names))
    if site.data != "cases":
        return read_openkbp(path, case_id)
    case = case_files.load_case(path)
    if case.case_id != case_id:
        raise InputError(f"{path}: holds case {case.case_id!r}, expected {case_id!r}; was the file renamed?")
    return case


def load_split(site: SiteConfig, split: str) -> list[Case]:
    """All cases of ``train`` or ``validation``, in the order in which the site lists them."""
    if split not in SPLITS:
        raise InputError(f"site {site.site}: split {split!r}: expected one of {', '.join(SPLITS)}")
    case_ids: tuple[str, ...] = getattr(site, split)
    return [load_case(site, case_id) for case_id in case_ids]
