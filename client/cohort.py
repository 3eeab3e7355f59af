"""The patients of a site: from case ids to validated Cases."""

from __future__ import annotations

from pathlib import Path

from client import case_files, dicom_cohort
from client.openkbp_read import read_openkbp
from client.site import DATA_FOLDERS, DICOM, SiteConfig, check_case_id
from shared_model.case import Case
from shared_model.errors import InputError

SPLITS = ("train", "validation")


def case_path(site: SiteConfig, case_id: str) -> Path:
    """The file of a case, at a site that keeps one file a patient. Raises InputError if ``case_id`` is no pseudonym."""
    return site.root / DATA_FOLDERS[site.data] / f"{check_case_id(case_id, f'site {site.site}')}.npz"


def load_case(site: SiteConfig, case_id: str) -> Case:
    """Read one case of ``site``. Raises InputError naming the file, of DICOM the case, and what is wrong with it."""
    if site.data == DICOM:
        return dicom_cohort.load_case(site, case_id)
    path = case_path(site, case_id)
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
