"""`client check`: are this site's patients and machine ready, and if not, what must be done? No patient data leaves.

It works on a folder of patients alone, before there is a home, and in a home. The report names patients by pseudonym;
``show_ids`` adds the hospital's own ids, for its own screen.

The JSON: ``{"usable": n, "total": m, "patients": [{"patient", "usable", "why", "todo", "notes", ...}], "cohort": {...},
"files": {...}, "structures": {"names", "not known to the model"}, "checks": [{"check", "state", "found", "todo"}],
"ready": bool, "seconds", "peak_memory_mb"}``.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from client.dicom.find import FileProblem
from client.names import review as name_review
from client.names.review import Reviewed
from client.reports.page import Cell, Page
from client.setup import check_machine
from client.setup.check_patient import CheckedPatient
from client.setup.check_patients import Looked, Source, look
from client.setup.findings import FAIL, Finding
from client.setup.forget import forgotten, is_of
from client.site.config import DICOM, GDP, SiteConfig
from client.site.home import ClientHome
from shared_model.adapter.envelope import Envelope
from shared_model.core.errors import InputError
from shared_model.core.files import write_json


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """All results of a check. ``ready``: at least one patient is usable and no check failed."""

    kind: str
    looked: Looked
    findings: tuple[Finding, ...]
    seconds: float
    peak_mb: float

    @property
    def usable(self) -> int:
        """Patients that can be trained on: those with at least one usable plan."""
        return len({self._person(row) for row in self.looked.patients if row.usable})

    @property
    def total(self) -> int:
        """All patients. Of DICOM and of GDP-HMM, a patient may have several plans, each with a row of its own."""
        return len({self._person(row) for row in self.looked.patients})

    def _person(self, row: CheckedPatient) -> str:
        return row.patient.partition("_")[0] if self.kind in (DICOM, GDP) else row.patient

    @property
    def names(self) -> list[Reviewed]:
        """The review table of all patients' structure names."""
        return name_review.review(patient.names for patient in self.looked.patients)

    @property
    def ready(self) -> bool:
        """Whether a site could take part as it is."""
        return self.usable > 0 and not any(finding.state == FAIL for finding in self.findings)

    def record(self, *, show_ids: bool) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "usable": self.usable,
            "total": self.total,
            "patients": [patient.to_json(show_ids=show_ids) for patient in self.looked.patients],
            "cohort": cohort(self.looked.patients),
            "files": {
                "kind": self.kind,
                "looked_at": self.looked.files,
                "problems": [_problem(problem, show_ids=show_ids) for problem in self.looked.file_problems],
                "others": dict(self.looked.others),
            },
            "structures": name_review.summary(self.names, show_ids=show_ids),
            "checks": [finding.to_json() for finding in self.findings],
            "ready": self.ready,
            "seconds": round(self.seconds, 1),
            "peak_memory_mb": round(self.peak_mb),
        }


def check(
    source: Source,
    home: ClientHome | None,
    envelope: Envelope | None,
    *,
    workers: int = 1,
    offline: bool = False,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> SiteReport:
    """Check every patient of ``source`` and the machine; in a home also its keys, policy and coordinator.

    Raises InputError only if ``source`` is not a folder of its kind. Any other problem is in the report.
    """
    started = time.monotonic()
    looked = look(source, envelope, workers, seen)
    if home is not None:
        looked = replace(looked, patients=_without_forgotten(looked.patients, forgotten(home.folder), source.kind))
    device = "auto" if home is None else _device_of(home)
    findings = check_machine.machine(source.root if home is None else home.folder, device)
    if home is not None:
        usable = SiteReport(kind=source.kind, looked=looked, findings=(), seconds=0.0, peak_mb=0.0).usable
        findings += check_machine.site(home, usable, offline=offline)
    seconds = time.monotonic() - started
    return SiteReport(kind=source.kind, looked=looked, findings=tuple(findings), seconds=seconds, peak_mb=_peak_mb())


def keep(home: ClientHome, report: SiteReport) -> None:
    """Keep the report in the home, for the site's page. It names patients by pseudonym alone."""
    write_json(home.state("check"), {"at": time.time(), **report.record(show_ids=False)})


def _device_of(home: ClientHome) -> str:
    """The device of the home's site.yaml. ``auto`` if that cannot be read, which its own finding tells."""
    try:
        return SiteConfig.load(home.site_config).device
    except InputError:
        return "auto"


def _problem(problem: FileProblem, *, show_ids: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"file": problem.number, "reason": problem.reason}
    return found | ({"path": str(problem.path)} if show_ids else {})


def _without_forgotten(
    patients: Sequence[CheckedPatient], forgotten_on: Mapping[str, str], kind: str
) -> tuple[CheckedPatient, ...]:
    """Return the rows. Patients that this site has forgotten are not usable, even if their files are still there."""
    rows = []
    for row in patients:
        date = next((day for patient, day in forgotten_on.items() if is_of(row.patient, patient, kind)), None)
        if date is not None:
            row = replace(row, why=(*row.why, f"forgotten on {date}"), todo=(*row.todo, "leave it off the lists"))
        rows.append(row)
    return tuple(rows)


def _peak_mb() -> float:
    """Return the peak memory of this process or of one that it started, whichever is more, in 10^6 bytes."""
    kilobytes = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(kilobytes) / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def cohort(patients: Sequence[CheckedPatient]) -> dict[str, Any]:
    """Summarise the usable patients: counts of structures and prescriptions, and (least, median, greatest)."""
    rows = [patient.numbers for patient in patients if patient.usable]
    spans = {
        "slice_mm": [row["spacing_mm"][0] for row in rows],
        "pixel_mm": [max(row["spacing_mm"][1:]) for row in rows],
        "body_cc": [row["body_cc"] for row in rows],
        "targets_cc": [row["targets_cc"] for row in rows],
        "dose_max_gy": [row["dose_max_gy"] for row in rows],
        "d95_percent": [100 * row["d95_gy"][t] / gy for row in rows for t, gy in row["prescriptions_gy"].items()],
    }
    prescribed = [gy for row in rows for gy in row["prescriptions_gy"].values()]
    return {
        "patients": len(rows),
        "with_plates": sum(row["plates"] for row in rows),
        "structures": dict(sorted(Counter(name for row in rows for name in row["structures"]).items())),
        "prescriptions": dict(sorted(Counter(map(str, prescribed)).items())),
        "spans": {key: _span(values) for key, values in spans.items() if values},
    }


def _span(values: Sequence[float]) -> list[float]:
    return [round(v, 2) for v in (min(values), statistics.median(values), max(values))]


def lines(report: SiteReport, *, show_ids: bool) -> list[str]:
    """Return the report for a screen: first what a person must look at, then the counts."""
    plans = len(report.looked.patients)
    counted = f"{plans} plans, " if plans != report.total else ""
    out = [
        f"{report.usable} of {report.total} patients are usable ({report.kind}, {counted}{report.looked.files} files)"
    ]
    for patient in report.looked.patients:
        name = f"{patient.patient} ({patient.record})" if show_ids else patient.patient
        out += [f"  {name}: {what}; {todo}" for what, todo in zip(patient.why, patient.todo, strict=True)]
        out += [f"  {name}: note: {note}" for note in patient.notes]
    out += [f"  {problem.line(show_path=show_ids)}" for problem in report.looked.file_problems]
    out += [f"  {count} files not used: {kind}" for kind, count in report.looked.others.items()]
    out += name_review.lines(report.names, show_ids=show_ids)
    for finding in report.findings:
        out.append(
            f"{finding.state:>4}  {finding.check}: {finding.found}" + (f"; {finding.todo}" if finding.todo else "")
        )
    verdict = "ready" if report.ready else "NOT ready"
    return [*out, f"{verdict}; {report.seconds:.1f} s, at most {report.peak_mb:.0f} MB in one process"]


def page(report: SiteReport, *, show_ids: bool) -> Page:
    """The report as a page."""
    found = report.record(show_ids=show_ids)
    made = Page("Site check", "Stays at the site. Research software, not for clinical use.")
    made.paragraph(
        f"{report.usable} of {report.total} patients are usable; the site is"
        f" {'ready' if report.ready else 'NOT ready'}. {report.seconds:.1f} s."
    )
    made.heading("Checks")
    made.table(
        ["check", "state", "found", "what to do"], [list(finding.to_json().values()) for finding in report.findings]
    )
    made.heading("Patients")
    header = ["patient", "usable", "why not", "what to do", "notes", *(["record"] if show_ids else [])]
    made.table(header, [_row(row) for row in found["patients"]])
    if report.looked.file_problems:
        made.heading("Files that are not used")
        made.table(
            ["file", "reason"], [(str(p.path) if show_ids else p.number, p.reason) for p in report.looked.file_problems]
        )
    if report.looked.others:
        made.heading("Files of other kinds")
        made.table(["kind", "files"], list(report.looked.others.items()))
    _names_page(made, report.names, found["structures"], show_ids=show_ids)
    _cohort_page(made, found["cohort"])
    return made


def _row(row: dict[str, Any]) -> list[str]:
    cells = [
        row["patient"],
        "yes" if row["usable"] else "no",
        *("; ".join(row[key]) for key in ("why", "todo", "notes")),
    ]
    return cells + ([row["record"]] if "record" in row else [])


def _names_page(made: Page, names: Sequence[Reviewed], found: dict[str, Any], *, show_ids: bool) -> None:
    if not names:
        return
    made.heading("Structure names")
    made.table(["state", "names"], list(found["names"].items()))
    if found[name_review.NOT_KNOWN]:
        made.table(["not known to the model, not used", "patients"], list(found[name_review.NOT_KNOWN].items()))
    if show_ids:
        header = ["name", "state", "TG-263", "how", "looks like", "patients"]
        cells: list[list[Cell]] = [
            [r.name, r.state, r.tg263, r.how, ", ".join(r.candidates), r.patients] for r in names
        ]
        made.table(header, cells)


def _cohort_page(made: Page, found: dict[str, Any]) -> None:
    made.heading("Cohort (usable patients)")
    made.paragraph(f"{found['patients']} patients, {found['with_plates']} with beam plates.")
    made.table(["", "least", "median", "greatest"], [[key, *map(float, span)] for key, span in found["spans"].items()])
    made.table(["structure", "patients"], list(found["structures"].items()))
    made.table(["prescription (Gy)", "targets"], list(found["prescriptions"].items()))
