"""Which kind of data lies at a path: a folder of a site's patients, or one patient's file or folder.

client/data/load.py reads what is found; client/site/config.py names the kinds and their folders.
"""

from __future__ import annotations

from pathlib import Path

from client.site.config import DATA_FOLDERS, DICOM, GDP, GDP_PRESCRIPTIONS
from shared_model.core.errors import InputError


def find_kind(root: Path) -> str:
    """Return the kind of data that ``root`` seems to hold: OpenKBP's folders, GDP-HMM's plans, case files, else DICOM.

    Raises InputError if it is not a folder.
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
    """Return the kind that one patient's data at ``path`` seem to be. A file is of the kind that its folder holds. A
    folder is DICOM unless it holds GDP-HMM's prescriptions."""
    folder = path if path.is_dir() else path.parent
    if (folder / GDP_PRESCRIPTIONS).is_file():
        return GDP
    if path.is_dir():
        return DICOM
    return next((kind for kind, name in DATA_FOLDERS.items() if name and folder.name == name), "cases")
