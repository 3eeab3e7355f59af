"""A clone of the OpenKBP challenge's repository -> the npz form that all commands read, once, patient by patient.

The folder that is written: ``half64/pt_N.npz``, ``full128/pt_N.npz``, ``splits.json``, ``meta.json``, and
``conversion.json``, which says of every patient what he lacks and why he could not be read. A conversion that was
stopped goes on with the next patient; a patient whose CSV files have changed is read again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.data.npz import write_arrays
from shared_model.core.errors import InputError
from shared_model.core.files import whole_file
from simulations.data.compact import META, half_arrays, native_arrays
from simulations.data.conversion_report import EXPECTED, Conversion, PatientRecord
from simulations.data.csv_patient import missing_volumes, read_csv_patient
from simulations.settings.commands import CLONE_FOLDER

RECORD = "conversion.json"

# Counts up where what is written for a patient changes, so that a folder of an older form is made again.
_FORM = 1
_PATIENT = re.compile(r"pt_(\d+)")

Progress = Callable[[int, int], None]


def convert(clone: Path, out: Path, progress: Progress) -> Conversion:
    """Convert what is not in ``out`` yet; ``progress`` is told how many patients are done, of how many.

    A patient that cannot be read is recorded and left out. Raises InputError if ``clone`` is none, if ``out`` holds
    something else, if a file cannot be written, or if no patient can be read.
    """
    folders = patient_folders(clone)
    known = _known_records(out)
    _write_json(out / RECORD, Conversion(clone, out, known).to_json())  # the folder is a conversion's from here on
    states = {case_id: _state(folder) for case_id, (_, folder) in folders.items()}
    records = {c: r for c, r in known.items() if c in folders and _holds(out, c, r, folders[c][0], states[c])}
    unread = [case_id for case_id in folders if case_id not in records]
    for number, case_id in enumerate(unread):
        progress(len(folders) - len(unread) + number, len(folders))
        records[case_id] = _convert_one(case_id, *folders[case_id], out, states[case_id])
        _write_json(out / RECORD, Conversion(clone, out, records).to_json())
    progress(len(folders), len(folders))
    conversion = Conversion(clone, out, {case_id: records[case_id] for case_id in folders}, read=len(unread))
    if not conversion.written:
        problem = next(record.problem for record in records.values())
        raise InputError(f"{clone}: no patient of {len(records)} can be read; the first one: {problem}")
    _write_json(out / RECORD, conversion.to_json())
    _write_json(out / "meta.json", META | {"without_ct": conversion.lacking("ct")})
    _write_json(out / "splits.json", conversion.splits())
    return conversion


def patient_folders(clone: Path) -> dict[str, tuple[str, Path]]:
    """Case id -> (split, folder) of every patient of ``clone``, by split and number.

    Raises InputError if there is none, or if two splits hold one patient.
    """
    found: dict[str, tuple[str, Path]] = {}
    for split in EXPECTED:
        parent = clone / CLONE_FOLDER / f"{split}-pats"
        folders = [path for path in parent.glob("pt_*") if path.is_dir() and _PATIENT.fullmatch(path.name)]
        for folder in sorted(folders, key=lambda path: int(path.name[3:])):
            if folder.name in found:
                raise InputError(f"{folder}: patient {folder.name} also lies in {found[folder.name][1]}; expected once")
            found[folder.name] = (split, folder)
    if not found:
        raise InputError(
            f"{clone}: no patient found; expected a clone of OpenKBP's repository, with folders like"
            f" {CLONE_FOLDER}/train-pats/pt_1"
        )
    return found


class SaidProgress:
    """Lines on standard error every few seconds: patients done, and about how long the rest will take."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._start: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Say it, unless the last line is younger; a conversion that is over sooner says nothing."""
        now = time.monotonic()
        if self._start is None:
            self._start, self._last = (now, done), now
        if now - self._last < self._every_s:
            return
        self._last = now
        since, first = self._start
        left_s = round((now - since) / max(done - first, 1) * (total - done))
        left = f", about {left_s // 60} min {left_s % 60} s left" if done < total else ""
        print(f"OpenKBP: {done} of {total} patients converted{left}", file=sys.stderr, flush=True)


def _convert_one(case_id: str, split: str, folder: Path, out: Path, state: str) -> PatientRecord:
    try:
        patient = read_csv_patient(folder)
    except InputError as error:
        return PatientRecord(split=split, state=state, missing=missing_volumes(folder), problem=str(error))
    write_arrays(out / "full128" / f"{case_id}.npz", native_arrays(patient))
    write_arrays(out / "half64" / f"{case_id}.npz", half_arrays(patient))
    return PatientRecord(split=split, state=state, missing=patient.missing, problem=None)


def _holds(out: Path, case_id: str, record: PatientRecord, split: str, state: str) -> bool:
    """Whether what ``record`` says is still so; a patient that could not be read is not read again unchanged."""
    if record.state != state or record.split != split:
        return False
    forms = ("half64", "full128")
    return record.problem is not None or all((out / form / f"{case_id}.npz").is_file() for form in forms)


def _state(folder: Path) -> str:
    """A hash of the folder's files by name, size and time, without reading them."""
    files = sorted(folder.glob("*.csv"))
    listed = [(path.name, (at := path.stat()).st_size, at.st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([_FORM, listed]).encode()).hexdigest()


def _known_records(out: Path) -> dict[str, PatientRecord]:
    """What a conversion that was stopped or finished left in ``out``."""
    path = out / RECORD
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any((out / name).exists() for name in ("splits.json", "half64"))):
            raise InputError(f"{out}: holds something that no conversion wrote; choose another folder")
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            case_id: PatientRecord(**{**value, "missing": tuple(value["missing"])})
            for case_id, value in content["patients"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: is no conversion's record; delete the folder {out} to convert again") from error


def _write_json(path: Path, content: Any) -> None:
    with whole_file(path) as stream:
        stream.write((json.dumps(content, indent=1) + "\n").encode())
