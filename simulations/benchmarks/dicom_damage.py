"""Thousands of damaged DICOM files: none may end the search, and each must give a Case or one clear line.

``python -m simulations.benchmarks.dicom_damage [--files N] [--seed N] [--json]``. Exit code 1 if any broke the rule: an
error that escaped, a line with a word of the record, more than 10 s, more than 2 GB, an undamaged study that was lost.
Seconds are of whole searches: the damaged file, the good ones about it, and the Case where one came of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from client.dicom.worker import MAX_SECONDS as ONE_FILE_S
from simulations.benchmarks.dicom_fuzz import MAX_SECONDS, damaged_cohort

MAX_MEMORY_MB = 2000.0


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


if __name__ == "__main__":
    sys.exit(main())
