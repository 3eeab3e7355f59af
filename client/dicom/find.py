"""Finds the studies below a folder: joins every file's header by references and Frame of Reference, not by names.

A bad file never ends the search: it becomes a FileProblem with one clear line, and the other files are read.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from client.dicom.headers import OTHER, Header, read_header
from client.dicom.open import NotDicomError
from client.dicom.worker import AT_ONCE, worker
from client.site.ledger_binding import MARK
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import FedKT3DError, InputError

MAX_FILES = 1_000_000


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
class DicomStudy:
    """One plan of one patient, or one structure set without a plan: what is read together as a Case.

    ``case_id`` is PATIENT_PLAN, two pseudonyms; ``patient`` is the first. ``problems`` say why it cannot be read (none:
    by its headers, it can). ``notes`` say what was assumed when its files were joined. Headers hold the record's own
    identifiers and stay at the site.
    """

    case_id: str
    ct: tuple[Header, ...] = field(repr=False, default=())
    structures: Header | None = field(repr=False, default=None)
    plan: Header | None = field(repr=False, default=None)
    doses: tuple[Header, ...] = field(repr=False, default=())
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def patient(self) -> str:
        """The patient's pseudonym."""
        return self.case_id.partition("_")[0]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a folder holds. ``files`` were read; ``other`` of them are not DICOM, or are DICOM of another kind."""

    studies: tuple[DicomStudy, ...]
    problems: tuple[FileProblem, ...]
    files: int
    other: int

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


def find_studies(root: Path, pseudonyms: Pseudonyms | None = None) -> Findings:
    """All studies below ``root``, joined by references and Frame of Reference, and every file that cannot be used.

    ``pseudonyms`` makes the case ids; without it they last for this call only. A bad file never raises an error;
    InputError only if ``root`` is not a folder. Reads no pixels.
    """
    headers: list[tuple[int, Header]] = []
    problems: list[FileProblem] = []
    files = other = 0
    for number, (path, answer) in enumerate(_headers(root), 1):
        files = number
        if number > MAX_FILES:
            raise InputError(f"{root}: more than {MAX_FILES} files; choose a smaller folder")
        if isinstance(answer, NotDicomError) or (isinstance(answer, Header) and answer.kind == OTHER):
            other += 1
        elif isinstance(answer, Header):
            headers.append((number, answer))
        else:
            problems.append(FileProblem(number=number, reason=str(answer), path=path))
    kept = _once(headers, problems)
    studies, unused = _Joiner(list(kept.values()), pseudonyms or Pseudonyms.temporary()).studies()
    numbers = {header.uid: number for number, header in headers}
    problems += [FileProblem(number=numbers[h.uid], reason=reason, path=h.path) for h, reason in unused]
    problems.sort(key=lambda problem: problem.number)
    return Findings(studies=tuple(studies), problems=tuple(problems), files=files, other=other)


def _headers(root: Path) -> Iterator[tuple[Path, Header | FedKT3DError]]:
    """The header of every file below ``root``, or the error that reading it gave."""
    paths = walk(root)
    while part := list(islice(paths, AT_ONCE)):
        yield from zip(part, worker().read_many(read_header, part), strict=True)


def _once(headers: Sequence[tuple[int, Header]], problems: list[FileProblem]) -> dict[str, Header]:
    """Keep each instance once: of two files with one identifier, keep the first and report the other."""
    kept: dict[str, Header] = {}
    for number, header in headers:
        if header.uid in kept:
            problems.append(
                FileProblem(number=number, reason=f"{header.kind}: a second file of one instance", path=header.path)
            )
        else:
            kept[header.uid] = header
    return kept


class _Joiner:
    """Headers by kind, and the studies that they make."""

    def __init__(self, headers: Sequence[Header], pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        self._series: dict[str, list[Header]] = defaultdict(list)
        self._of: dict[str, list[Header]] = {kind: [] for kind in ("RTSTRUCT", "RTPLAN", "RTDOSE")}
        for header in headers:
            if header.kind == "CT":
                if header.plane is not None:
                    self._series[header.series].append(header)
            else:
                self._of[header.kind].append(header)
        self._used: set[str] = set()

    def studies(self) -> tuple[list[DicomStudy], list[tuple[Header, str]]]:
        """All studies by case id, and the files that belong to none with the reason."""
        studies = [self._of_plan(plan) for plan in self._of["RTPLAN"]]
        drawn = {study.structures.uid for study in studies if study.structures is not None}
        studies += [self._of_structures(s) for s in self._of["RTSTRUCT"] if s.uid not in drawn]
        used_series = {header.series for study in studies for header in study.ct}
        for series, slices in self._series.items():
            if series not in used_series:
                studies.append(
                    self._study(slices[0], slices, None, None, (), ["no structure set (RTSTRUCT) for this CT"], [])
                )
        unused = [
            (dose, "RTDOSE: belongs to no plan or structure set of this folder")
            for dose in self._of["RTDOSE"]
            if dose.uid not in self._used
        ]
        return sorted(studies, key=lambda study: study.case_id), unused

    def _of_plan(self, plan: Header) -> DicomStudy:
        problems: list[str] = []
        notes: list[str] = []
        structures = self._one_of("RTSTRUCT", plan, "structure set", problems, notes)
        doses = [dose for dose in self._of["RTDOSE"] if plan.uid in dose.refers]
        if not doses and len([p for p in self._of["RTPLAN"] if _same_frame(p, plan)]) == 1:
            plans = {p.uid for p in self._of["RTPLAN"]}
            doses = [d for d in self._of["RTDOSE"] if _same_frame(d, plan) and not plans.intersection(d.refers)]
            notes += ["dose joined by Frame of Reference: it refers to no plan of this folder"] if doses else []
        ct = self._ct(structures, problems, notes) if structures is not None else []
        return self._study(plan, ct, structures, plan, doses, problems, notes)

    def _of_structures(self, structures: Header) -> DicomStudy:
        problems: list[str] = []
        notes = ["no plan (RTPLAN): no beam plates, and prescriptions only by name"]
        plans = {p.uid for p in self._of["RTPLAN"]}
        doses = [
            dose
            for dose in self._of["RTDOSE"]
            if not plans.intersection(dose.refers)
            and (structures.uid in dose.refers or self._alone_in_frame(structures, dose))
        ]
        ct = self._ct(structures, problems, notes)
        return self._study(structures, ct, structures, None, doses, problems, notes)

    def _alone_in_frame(self, structures: Header, dose: Header) -> bool:
        return _same_frame(structures, dose) and sum(_same_frame(s, dose) for s in self._of["RTSTRUCT"]) == 1

    def _one_of(self, kind: str, by: Header, what: str, problems: list[str], notes: list[str]) -> Header | None:
        """The one header of ``kind`` that ``by`` refers to, or else the only one in its Frame of Reference."""
        named = [header for header in self._of[kind] if header.uid in by.refers]
        near = named or [header for header in self._of[kind] if _same_frame(header, by)]
        if len(near) == 1:
            if not named:
                notes.append(f"{what} joined by Frame of Reference: the plan refers to none of this folder")
            return near[0]
        if near:
            problems.append(f"{len(near)} {what}s are possible and the plan does not say which; remove the others")
        else:
            problems.append(f"no {what} ({kind}) for this plan; export it as well")
        return None

    def _ct(self, structures: Header, problems: list[str], notes: list[str]) -> list[Header]:
        """The CT series that the structure set was drawn on."""
        named = [series for series in self._series if series in structures.refers]
        near = named or [s for s, slices in self._series.items() if any(_same_frame(h, structures) for h in slices)]
        if not near:
            problems.append("no CT for this structure set; export the CT series that it was drawn on")
            return []
        if len(near) > 1:
            sizes = Counter({series: len(self._series[series]) for series in near})
            (first, most), (_, second) = sizes.most_common(2)
            if most == second:
                problems.append(f"{len(near)} CT series are possible for this structure set; remove the others")
                return []
            near = [first]
            notes.append(f"of {len(sizes)} possible CT series the one with most slices was taken")
        elif not named:
            notes.append("CT joined by Frame of Reference: the structure set refers to no series of this folder")
        return self._series[near[0]]

    def _study(
        self,
        by: Header,
        ct: Sequence[Header],
        structures: Header | None,
        plan: Header | None,
        doses: Sequence[Header],
        problems: list[str],
        notes: list[str],
    ) -> DicomStudy:
        self._used |= {dose.uid for dose in doses}
        predicted = sum(dose.research for dose in doses)
        if predicted:  # `client predict` marks its doses like this, and hospitals send them back into the same study
            notes.append(f"{predicted} predicted doses left out (ContentQualification RESEARCH): not the plan's dose")
            doses = [dose for dose in doses if not dose.research]
        parts = [*ct, *doses, *(h for h in (structures, plan) if h is not None)]
        if len({h.patient for h in parts if h.patient}) > 1:
            problems.append("its files carry different patient ids; export the study again")
        frames = [set(h.frames) for h in parts if h.frames]
        if frames and not set.intersection(*frames):
            problems.append("its files have different Frames of Reference: their positions do not match")
        unsure = [kind for kind, of in (("CT", ct), ("RTDOSE", doses)) if any(not h.frames for h in of)]
        notes += [f"the {kind} has no Frame of Reference: whether it fits the others is not known" for kind in unsure]
        if not doses:
            notes.append("no dose (RTDOSE): for prediction only")
        patient = self._pseudonyms.patient(by.patient or next(iter(by.frames), by.study or by.series))
        return DicomStudy(
            case_id=f"{patient}_{self._pseudonyms.plan(by.uid)}",
            ct=tuple(ct),
            structures=structures,
            plan=plan,
            doses=tuple(doses),
            problems=tuple(problems),
            notes=tuple(notes),
        )


def _same_frame(one: Header, other: Header) -> bool:
    return bool(set(one.frames) & set(other.frames))
