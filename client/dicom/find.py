"""Finds the studies below a folder: reads every file's header, keeps each instance once, and has them joined.

A bad file never ends the search: it becomes a FileProblem with one clear line, and the other files are read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from client.dicom.headers import ENHANCED_CT, OTHER, Header, read_header
from client.dicom.join import DicomStudy, Joiner
from client.dicom.open import NotDicomError, content_digest
from client.dicom.worker import AT_ONCE, Worker, worker
from client.site.ledger_binding import MARK
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import FedKT3DError, InputError

MAX_FILES = 1_000_000
_ENHANCED = (
    "Enhanced CT (several slices in one file) is not read; export the series as CT Image Storage, a file a slice"
)


@dataclass(frozen=True, kw_only=True)
class FileProblem:
    """A file that is not used. ``number`` counts the files of the search in order of their paths, from 1; ``reason``
    holds nothing of its content. ``path`` may hold a name: it is only for the site's own screen."""

    number: int
    reason: str
    path: Path = field(repr=False)

    def line(self, *, show_path: bool = False) -> str:
        """One line for a list of problems."""
        return f"file {self.number}{f' ({self.path})' if show_path else ''}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a folder holds. ``files`` were looked at; ``others`` says what kinds of file are not used, and how many
    of each."""

    studies: tuple[DicomStudy, ...]
    problems: tuple[FileProblem, ...]
    files: int
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def other(self) -> int:
        """How many files are not DICOM, or DICOM of another kind."""
        return sum(self.others.values())

    def study(self, case_id: str) -> DicomStudy:
        """The study with this pseudonym. Raises InputError if there is none."""
        for study in self.studies:
            if study.case_id == case_id:
                return study
        raise InputError(f"case {case_id}: no such study in the DICOM folder; look with `client check`")


def walk(root: Path) -> Iterator[Path]:
    """All files below ``root`` in order of their paths; links are not followed. Raises InputError for no folder."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with DICOM files")
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if name not in ("DICOMDIR", MARK) and not path.is_symlink() and path.is_file():
                yield path


def find_studies(root: Path, pseudonyms: Pseudonyms | None = None, readers: int = 1) -> Findings:
    """All studies below ``root``, joined by references and Frame of Reference, and every file that cannot be used.

    ``pseudonyms`` makes the case ids; without it they last for this call only. ``readers`` processes parse headers at
    once. A bad file never raises an error; InputError only if ``root`` is not a folder. Reads no pixels.
    """
    headers: list[tuple[int, Header]] = []
    problems: list[FileProblem] = []
    others: Counter[str] = Counter()
    files = 0
    for number, (path, answer) in enumerate(_headers(root, readers), 1):
        files = number
        if number > MAX_FILES:
            raise InputError(f"{root}: more than {MAX_FILES} files; choose a smaller folder")
        if isinstance(answer, NotDicomError):
            others["not DICOM"] += 1
        elif isinstance(answer, Header) and answer.kind == OTHER:
            others[f"DICOM of {answer.content}"] += 1
        elif isinstance(answer, Header) and answer.kind == ENHANCED_CT:
            problems.append(FileProblem(number=number, reason=_ENHANCED, path=path))
        elif isinstance(answer, Header):
            headers.append((number, answer))
        else:
            problems.append(FileProblem(number=number, reason=str(answer), path=path))
    kept = _once(headers, problems)
    studies, unused = Joiner(kept, pseudonyms or Pseudonyms.temporary()).studies()
    numbers = {header.path: number for number, header in headers}
    problems += [FileProblem(number=numbers[h.path], reason=reason, path=h.path) for h, reason in unused]
    problems.sort(key=lambda problem: problem.number)
    return Findings(studies=tuple(studies), problems=tuple(problems), files=files, others=dict(others.most_common()))


def _headers(root: Path, readers: int) -> Iterator[tuple[Path, Header | FedKT3DError]]:
    """The header of every file below ``root`` in order of the paths, or the error that reading it gave."""
    paths = walk(root)
    processes = [worker(), *(Worker() for _ in range(readers - 1))]
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            while parts := [part for _ in processes if (part := list(islice(paths, AT_ONCE)))]:
                for part, answers in zip(parts, pool.map(_read_headers, processes, parts), strict=True):
                    yield from zip(part, answers, strict=True)
        finally:
            for process in processes[1:]:
                process.close()


def _read_headers(process: Worker, paths: list[Path]) -> list[Header | FedKT3DError]:
    return process.read_many(read_header, paths)


def _once(headers: Sequence[tuple[int, Header]], problems: list[FileProblem]) -> list[Header]:
    """Keep each instance once, and report the copies. Two files of one instance with other contents: which is right is
    not known, so that what is made of them is unfit. A file of another patient spoils none of this one's."""
    kept: dict[str, Header] = {}
    for number, header in headers:
        first = kept.setdefault(header.uid, header)
        if first is header:
            continue
        reason = f"{header.kind}: a second file of one instance"
        if first.patient == header.patient and not _equal(first, header):
            reason = f"{header.kind}: a second file of one instance, with another content"
            unfit = f"{header.kind}: two files of one SOPInstanceUID with different contents; remove the wrong one"
            kept[header.uid] = replace(first, unfit=unfit)
        problems.append(FileProblem(number=number, reason=reason, path=header.path))
    return list(kept.values())


def _equal(one: Header, other: Header) -> bool:
    """Whether two files say the same; their file meta information, which says how they are stored, does not count."""
    digests = worker().read_many(content_digest, [one.path, other.path])
    return not any(isinstance(digest, FedKT3DError) for digest in digests) and digests[0] == digests[1]
