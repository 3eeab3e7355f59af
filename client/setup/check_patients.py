"""The patients below a folder, whatever kind of data it holds, one row each. A bad patient never hides the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from client.data.load import read_file
from client.dicom.find import FileProblem, Findings, find_studies
from client.dicom.join import DicomStudy
from client.dicom.study import NoTargetError, read_case
from client.names.rules import NameRules
from client.setup.check_patient import CheckedPatient, examine, mark_duplicates, unreadable
from client.site.config import DATA_FOLDERS, DATA_KINDS, DICOM, case_id_of, is_case_id
from client.site.pseudonyms import Pseudonyms
from shared_model.adapter.envelope import Envelope
from shared_model.core.errors import InputError

# With fewer patients, a second process costs more to start than it saves.
FEW = 16


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the patients lie. ``pseudonyms`` and ``rules`` are for DICOM; without a salt, case ids last one call."""

    kind: str
    root: Path
    pseudonyms: Pseudonyms | None = None
    rules: NameRules = field(default_factory=NameRules)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The rows, one for each plan; for DICOM also the files that belong to none, and how many of which other kinds."""

    patients: tuple[CheckedPatient, ...]
    files: int
    file_problems: tuple[FileProblem, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One patient to look at: a file, or a study. Goes to another process."""

    case_id: str
    record: str = field(repr=False)
    path: Path | None = field(repr=False, default=None)
    study: DicomStudy | None = field(repr=False, default=None)


def look(
    source: Source,
    envelope: Envelope | None,
    workers: int = 1,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> Looked:
    """Examine every patient of ``source``. After each, ``seen`` gets how many are done, and of how many.

    Raises InputError if there is no such folder.
    """
    items, found = _items(source, max(1, min(workers, os.cpu_count() or 1)))
    examined = partial(_examine_item, source.kind, source.rules, envelope)
    rows = []
    for row in _map_items(examined, items, workers):
        rows.append(row)
        seen(len(rows), len(items))
    rows.sort(key=lambda row: row.patient)
    patients = tuple(mark_duplicates(rows))
    if found is None:
        return Looked(patients=patients, files=len(items))
    return Looked(patients=patients, files=found.files, file_problems=found.problems, others=found.others)


def _items(source: Source, readers: int) -> tuple[list[_Item], Findings | None]:
    if source.kind not in DATA_KINDS:
        raise InputError(f"--kind {source.kind}: expected one of {', '.join(DATA_KINDS)}")
    if source.kind == DICOM:
        found = find_studies(source.root, source.pseudonyms, readers)
        items = [_Item(case_id=study.case_id, record=_record(study), study=study) for study in found.studies]
        return items, found
    folder = source.root / DATA_FOLDERS[source.kind]
    if not folder.is_dir():
        raise InputError(
            f"--data {source.root}: no folder {folder.name or folder}; expected --kind {source.kind} there"
        )
    paths = sorted(folder.glob("*.npz"))
    # A file that is not named by a pseudonym may be named by a patient.
    names = [case_id_of(source.kind, path) for path in paths]
    items = [
        _Item(case_id=name if is_case_id(name) else f"file_{number}", record=path.name, path=path)
        for number, (name, path) in enumerate(zip(names, paths, strict=True), 1)
    ]
    return items, None


def _record(study: DicomStudy) -> str:
    """Return the hospital's own patient id of a study, and where its files lie: an error says of which kind its is."""
    parts = [header for header in (study.plan, study.structures, *study.doses) if header is not None]
    files = [f"{header.kind} {header.path}" for header in parts]
    if study.ct:
        files.append(f"CT {study.ct[0].path.parent}")
    return " | ".join([(parts or list(study.ct))[0].patient, *files])


def _map_items(
    examined: Callable[[_Item], CheckedPatient], items: list[_Item], workers: int
) -> Iterator[CheckedPatient]:
    count = min(workers, os.cpu_count() or 1, len(items) // FEW + 1)
    if count < 2:
        yield from map(examined, items)
        return
    try:
        pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    except OSError:  # its locks lie in /dev/shm, which may be full or closed
        yield from map(examined, items)
        return
    with pool:
        yield from pool.map(examined, items)


def _examine_item(kind: str, rules: NameRules, envelope: Envelope | None, item: _Item) -> CheckedPatient:
    try:
        if item.study is not None:
            reading = read_case(item.study, rules)
        else:
            assert item.path is not None
            reading = read_file(kind, item.path, rules, listed=True)
        return examine(reading.case, envelope, reading.notes, item.record, reading.names, reading.untrainable)
    except InputError as error:
        reasons = item.study.problems if item.study is not None else ()
        row = unreadable(item.case_id, reasons or (_without_paths(str(error), item),), item.record)
        return replace(row, names=error.names) if isinstance(error, NoTargetError) else row
    except Exception as error:  # keep the other patients' rows; the error's text may quote a record
        return unreadable(item.case_id, (f"cannot be read ({type(error).__name__})",), item.record)


def _without_paths(text: str, item: _Item) -> str:
    """Return the reader's reason without a leading path or case id: that says nothing new and may hold a name."""
    fronts = [f"case {item.case_id}: "] + ([f"{item.path}: "] if item.path is not None else [])
    for front in fronts:
        text = text.replace(front, "")
    return text
