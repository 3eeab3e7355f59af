"""Joins headers into studies: by references and Frame of Reference, never by names.

What the files say goes before what may be guessed: a plan names its structure set, a dose its plan, contours the slices
that they were drawn on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from client.dicom.contours import contour_images
from client.dicom.headers import Header
from client.dicom.worker import worker
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError


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

    @property
    def approved(self) -> bool:
        """Whether the plan is approved, as far as it says."""
        return self.plan is not None and self.plan.approval in ("", "APPROVED")


class Joiner:
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
        """The CT series that the structure set was drawn on: the one that it names, in its frame, or of its images."""
        named = [series for series in self._series if series in structures.refers]
        near = named or [s for s, slices in self._series.items() if any(_same_frame(h, structures) for h in slices)]
        if len(near) != 1:
            drawn_on = self._of_images(structures, near or list(self._series))
            if len(drawn_on) == 1:
                notes.append("CT joined by the images that the contours refer to")
                return self._series[drawn_on[0]]
        if not near:
            problems.append("no CT for this structure set; export the CT series that it was drawn on")
            return []
        if len(near) > 1:
            problems.append(
                f"{len(near)} CT series are possible for this structure set, and its contours do not say which; remove"
                " the others"
            )
            return []
        if not named:
            notes.append("CT joined by Frame of Reference: the structure set refers to no series of this folder")
        return self._series[near[0]]

    def _of_images(self, structures: Header, series: Sequence[str]) -> list[str]:
        """Those of ``series`` that hold an image which the contours were drawn on."""
        try:
            images = set(worker().read(contour_images, structures.path))
        except InputError:  # reading its contours will say why
            return []
        return [s for s in series if any(header.uid in images for header in self._series[s])]

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
        without_grid = [dose for dose in doses if not dose.grid]
        if without_grid:
            notes.append(f"{len(without_grid)} RTDOSE without a grid of dose, such as a DVH alone, left out")
            doses = [dose for dose in doses if dose not in without_grid]
        parts = [*ct, *doses, *(h for h in (structures, plan) if h is not None)]
        problems += dict.fromkeys(header.unfit for header in parts if header.unfit)
        if plan is not None and plan.approval not in ("", "APPROVED"):
            notes.append(f"plan: ApprovalStatus is {plan.approval}"[:60])
        if len({h.patient for h in parts if h.patient}) > 1:
            problems.append("its files carry different patient ids (PatientID); export them of one patient")
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
