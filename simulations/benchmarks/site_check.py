"""Seconds and memory of `client check` on a hospital of DICOM studies, by processes, as ratios within one run.

``python -m simulations.benchmarks.site_check [--patients N] [--distinct N] [--processes 1 2] [--json]``: N studies
(default 200), of which DISTINCT (default 8) are made and the others are copies under identifiers of their own, so that
making them does not take longer than reading them. Phantoms are small (32 slices of about 95 x 145 pixels): seconds a
patient say what files and structures cost, not what a 512 x 512 CT does. So the reading of one study of that size
follows in the same run, against a plain loop over contours (simulations/benchmarks/dicom_reading.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import pydicom
from pydicom.valuerep import format_number_as_ds

from client.setup import check as preflight
from client.setup.check_patients import Source
from client.site.config import DICOM
from simulations.benchmarks import dicom_reading
from simulations.phantom.dicom import write_dicom_hospital
from simulations.phantom.hospitals import find_style


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--distinct", type=int, default=8)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_hospital(Path(folder) / "hospital", asked.patients, min(asked.distinct, asked.patients))
        rows = [measure_check(Path(folder) / "hospital", workers) for workers in asked.processes]
    costs, agreement = dicom_reading.measure_reading()
    if asked.json:
        reading = {"cpu_s": costs, "mean_dice_of_both": agreement}
        print(json.dumps({"patients": asked.patients, "files": files, "runs": rows, "reading": reading}))
        return
    print(f"{asked.patients} DICOM studies, {files} files\n")
    print("| processes | wall s | ratio | s a patient | most memory of one process (MB) | usable |")
    print("|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        per_patient, ratio = row["seconds"] / asked.patients, row["seconds"] / rows[0]["seconds"]
        times = f"{row['seconds']:.0f} | {ratio:.2f} | {per_patient:.2f}"
        print(f"| {row['workers']:.0f} | {times} | {row['peak_mb']:.0f} | {row['usable']:.0f} |")
    print(f"\nOne study with a CT of 512 x 512 x 100:\n\n{dicom_reading.table(costs, agreement)}")


def measure_check(root: Path, workers: int) -> dict[str, float]:
    """One `client check` of ``root``."""
    report = preflight.check(Source(kind=DICOM, root=root), None, None, workers=workers)
    return {
        "workers": workers,
        "seconds": report.seconds,
        "peak_mb": report.peak_mb,
        "usable": report.usable,
    }


def write_hospital(root: Path, patients: int, distinct: int) -> int:
    """Write the studies; returns how many files they are."""
    write_dicom_hospital(root, find_style("openkbp_like"), distinct, 0)
    made = sorted(root.iterdir())
    for number in range(distinct, patients):
        copy = root / f"copy_{number:04d}"
        shutil.copytree(made[number % distinct], copy)
        for path in copy.rglob("*.dcm"):
            _renumber(path, f".{number}")
    return sum(1 for path in root.rglob("*.dcm"))


def _renumber(path: Path, suffix: str) -> None:
    """Another patient: every identifier, wherever it stands, gets a suffix; so references still hold."""
    dataset = pydicom.dcmread(path)
    for element in dataset.iterall():
        if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008."):
            element.value = f"{str(element.value)[: 64 - len(suffix)]}{suffix}"
    if "DoseGridScaling" in dataset:  # another dose, or the check would report a duplicate
        dataset.DoseGridScaling = format_number_as_ds(float(dataset.DoseGridScaling) * (1 + 1e-5 * int(suffix[1:])))
    dataset.PatientID = f"{dataset.PatientID}{suffix}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)


if __name__ == "__main__":
    main()
