"""Thousands of damaged DICOM files: none may end the search, and each must give a Case or one clear line.

``python -m simulations.benchmarks.dicom_damage [--files N] [--seed N] [--json]``. Exit code 1 if any broke the rule.
Seconds are of whole searches: the damaged file, the good ones about it, and the Case where one came of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from client.dicom_worker import MAX_SECONDS
from simulations.dicom_fuzz import damaged_cohort

MAX_MEMORY_MB = 2000.0


def main() -> int:
    """Print what came of the files."""
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
        "cases": report.read,
        "lines": report.lines.total(),
        "kinds_of_lines": len(report.lines),
        "slowest_s": round(report.slowest_s, 2),
        "slowest": report.slowest,
        "limit_for_one_file_s": MAX_SECONDS,
        "peak_mb": round(own),
        "peak_mb_reading": round(reading),
        "faults": report.faults[:20],
    }
    print(json.dumps(record) if options.json else "\n".join(f"{key}: {value}" for key, value in record.items()))
    return 1 if report.faults or max(own, reading) > MAX_MEMORY_MB else 0


if __name__ == "__main__":
    sys.exit(main())
