"""Which kind of data a folder holds."""

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
