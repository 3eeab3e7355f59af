"""Thousands of damaged DICOM files: none may end the search, and each must give a Case or one clear line.

``python -m simulations.benchmarks.dicom_damage [--files N] [--seed N] [--json]``. Exit code 1 if any broke the rule: an
error that escaped, a line with a word of the record, more than 10 s, more than 2 GB, an undamaged study that was lost.
Seconds are of whole searches: the damaged file, the good ones about it, and the Case where one came of it. Each damaged
file takes the place of a good one in a small phantom study that lies beside an undamaged study.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from client.dicom.find import find_studies
from client.dicom.study import read_case
from client.dicom.worker import MAX_SECONDS as ONE_FILE_S
from client.dicom.worker import worker
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import FedKT3DError, InputError
from simulations.phantom.dicom import write_study
from simulations.phantom.dicom_files import Identity
from simulations.phantom.dicom_fuzz import DAMAGES, SHARES
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.phantom.planes import Scan

MAX_MEMORY_MB = 2000.0
# A search that takes longer counts as hanging.
MAX_SECONDS = 10.0


def main() -> int:
    """Print the results of reading the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = damaged_cohort(Path(folder) / "cohort", options.files, options.seed)
    own, reading = report.memory_mb()
    record = {
        "files": report.files,
        "damages": dict(sorted(report.damages.items())),
        "cases": report.read,
        "undamaged_beside": report.beside,
        "lines": report.lines.total(),
        "kinds_of_lines": len(report.lines),
        "slowest_s": round(report.slowest_s, 2),
        "slowest": report.slowest,
        "limit_s": MAX_SECONDS,
        "limit_for_one_file_s": ONE_FILE_S,
        "peak_mb": round(own),
        "peak_mb_reading": round(reading),
        "faults": report.faults[:20],
    }
    print(json.dumps(record) if options.json else "\n".join(f"{key}: {value}" for key, value in record.items()))
    return 1 if report.faults or max(own, reading) > MAX_MEMORY_MB else 0


@dataclass
class FuzzReport:
    """What a run of damaged files gave; ``faults`` must be empty. ``beside``: searches of both studies that gave the
    undamaged one whole, ``read``: Cases that came of a damaged one."""

    files: int = 0
    damages: Counter[str] = field(default_factory=Counter)
    read: int = 0
    beside: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    faults: list[str] = field(default_factory=list)

    def memory_mb(self) -> tuple[float, float]:
        """Greatest resident size (MB) of this process and of any reading process; the running one is ended."""
        worker().close()  # the system tells of those that have ended
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3


def damaged_cohort(folder: Path, files: int, seed: int, check_every: int = 10) -> FuzzReport:
    """Read ``files`` damaged files one after another, in a study beside a good one, both below ``folder``.

    Every ``check_every`` files, and after the last, both are searched together.
    """
    style = STYLES["openkbp_like"]
    good, bad = folder / "good", folder / "bad"
    for index, place in enumerate((good, bad)):
        case = phantom_case(index, style, (12, 12, 12))
        write_study(place, case, Scan(), Identity.of_phantom(seed, index), style.plan.gantry_deg)
    originals = {path: path.read_bytes() for path in sorted(bad.rglob("*.dcm"))}
    others = [path for path in originals if path.parent != bad]
    parts = [path for path in originals if path.parent == bad] * 4 + others[:4]
    pseudonyms = Pseudonyms(bytes(32))
    good_id = find_studies(good, pseudonyms).studies[0].case_id
    report = FuzzReport()
    for number in range(files):
        rng = np.random.default_rng([seed, number])
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=SHARES / SHARES.sum()))]
        path = parts[int(rng.integers(len(parts)))]
        path.write_bytes(damage(originals[path], rng))
        started = time.perf_counter()
        _read(bad, pseudonyms, report, f"{damage.__name__} of {path.name} ({number})")
        seconds = time.perf_counter() - started
        report.damages[damage.__name__] += 1
        what = f"{damage.__name__} of {path.name} ({number})"
        if seconds > report.slowest_s:
            report.slowest_s, report.slowest = seconds, what
        if seconds > MAX_SECONDS:
            report.faults.append(f"{what}: {seconds:.1f} s; expected at most {MAX_SECONDS:g}")
        if number % check_every == 0 or number == files - 1:
            _both(folder, pseudonyms, good_id, report, what)
        path.write_bytes(originals[path])
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _read(folder: Path, pseudonyms: Pseudonyms, report: FuzzReport, what: str) -> None:
    report.files += 1
    try:
        found = find_studies(folder, pseudonyms)
        for problem in found.problems:
            _line(problem.line(), report, what)
        for study in found.studies:
            try:
                read_case(study)
                report.read += 1
            except InputError as error:
                _line(str(error), report, what)
    except FedKT3DError as error:
        report.faults.append(f"{what}: the whole search ended: {error}")
    except Exception as error:
        report.faults.append(f"{what}: {type(error).__name__}: {error}")


def _line(text: str, report: FuzzReport, what: str) -> None:
    """Every refusal is one line without a word of the record."""
    report.lines[text.partition(": ")[2][:60]] += 1
    if "\n" in text or "Phantom" in text or "PHANTOM" in text or "1.2.826" in text or "/" in text.replace("I/O", ""):
        report.faults.append(f"{what}: not one clean line: {text!r}")


def _both(folder: Path, pseudonyms: Pseudonyms, case_id: str, report: FuzzReport, what: str) -> None:
    """Whether the undamaged study is found and read whole in a search of the folder of both."""
    try:
        reading = read_case(find_studies(folder, pseudonyms).study(case_id))
    except FedKT3DError as error:
        report.faults.append(f"the undamaged study was lost beside {what}: {error}")
        return
    if reading.case.dose_gy is None or reading.case.beam_plate is None or reading.notes:
        report.faults.append(f"the undamaged study was not whole beside {what}")
        return
    report.beside += 1


if __name__ == "__main__":
    sys.exit(main())
