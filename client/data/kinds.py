"""Which kind of data lies at a path: a folder of a site's patients, or one patient's file or folder.

client/data/load.py reads what is found; client/site/config.py names the kinds and their folders.
"""

from __future__ import annotations

from pathlib import Path

from client.site.config import DATA_FOLDERS, DICOM, GDP, GDP_PRESCRIPTIONS
from shared_model.core.errors import InputError


def found_kind(root: Path) -> str:
    """What ``root`` seems to hold: OpenKBP's folders, GDP-HMM's plans, case files, else DICOM.

    Raises InputError if it is no folder.
    """
    if not root.is_dir():
        raise InputError(f"--data {root}: no such folder; expected one with the site's patients")
    for kind, folder in DATA_FOLDERS.items():
        if folder and (root / folder).is_dir():
            return kind
    if (root / GDP_PRESCRIPTIONS).is_file():
        return GDP
    return "cases" if any(root.glob("*.npz")) else DICOM


def patient_kind(path: Path) -> str:
    """What one patient's data at ``path`` seem to be: a file is of the kind that it lies among, a folder is DICOM
    unless GDP-HMM's prescriptions lie in it."""
    folder = path if path.is_dir() else path.parent
    if (folder / GDP_PRESCRIPTIONS).is_file():
        return GDP
    if path.is_dir():
        return DICOM
    return next((kind for kind, name in DATA_FOLDERS.items() if name and folder.name == name), "cases")
