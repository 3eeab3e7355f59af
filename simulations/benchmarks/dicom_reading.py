"""Seconds of reading one planned patient from DICOM, against a plain loop over contours in the same run.

``python -m simulations.benchmarks.dicom_reading [--json]``: CT of 512 x 512 x 100, 18 structures with 200 points a
contour, dose at 2.5 mm. The loop is what short scripts and converters do: every slice to Hounsfield units, every
contour's ContourData to pixels, its polygon drawn on its slice and combined by exclusive or. CPU seconds of both
processes without their start; the best of REPEATS, of whole studies the mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image, ImageDraw

from client.dicom.contours import read_structures
from client.dicom.find import find_studies
from client.dicom.images import case_grid, stack
from client.dicom.join import DicomStudy
from client.dicom.study import read_case
from client.dicom.worker import worker
from client.planes.masks import Rasteriser
from simulations.phantom.dicom_files import Identity, write_ct, write_dose, write_plan, write_structures
from simulations.phantom.planes import Planes

SIDE, SLICES, PIXEL_MM, SLICE_MM = 512, 100, 0.98, 2.5
REPEATS = 3
# Pixels a voxel of the Case, and whole voxels a row.
GROUP, VOXELS = 3, SIDE // 3
_NAMES = ("PTV_7000", "PTV_5600", "SpinalCord", "Brainstem", "Parotid_L", "Parotid_R", "Larynx", "Esophagus")


def _circle(x: float, y: float, z: float, radius: float) -> Any:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full_like(angle, z)], axis=1)


def write_patient(folder: Path) -> DicomStudy:
    """Write the study and find it."""
    (folder / "CT").mkdir(parents=True)
    identity = Identity.of_phantom(0, 0)
    rng = np.random.default_rng(0)
    corner = np.array([-0.5 * (SIDE - 1) * PIXEL_MM] * 2 + [0.0])
    positions = corner + np.arange(SLICES)[:, None] * np.array([0.0, 0.0, SLICE_MM])
    axes = np.eye(3)
    ct = Planes(positions, axes[0], axes[1], (PIXEL_MM, PIXEL_MM), SIDE, SIDE)
    write_ct(folder / "CT", rng.normal(0, 50, (SLICES, SIDE, SIDE)), ct, "HFS", identity)
    names = [*_NAMES, *(f"Organ {number}" for number in range(9))]
    drawn: dict[str, list[list[Any]]] = {"BODY": [[_circle(0, 0, z, 160.0)] for z in positions[:, 2]]}
    for name in names:
        x, y, radius = rng.uniform(-60, 60), rng.uniform(-60, 60), rng.uniform(8, 45)
        first, last = sorted(rng.choice(np.arange(5, SLICES - 5), 2, replace=False))
        drawn[name] = [[_circle(x, y, z, radius)] if first <= k <= last else [] for k, z in enumerate(positions[:, 2])]
    write_structures(folder / "rs.dcm", drawn, _NAMES[:2], SLICES, identity)
    write_plan(
        folder / "rp.dcm", [0.0, 72.0, 144.0, 216.0, 288.0], (0.0, 0.0, 125.0), {2: 70.0, 3: 56.0}, "HFS", identity
    )
    dose = Planes(positions, axes[0], axes[1], (2.5, 2.5), 140, 140)
    write_dose(folder / "rd.dcm", rng.uniform(0, 70, (SLICES, 140, 140)), dose, identity, beam=None)
    return find_studies(folder).studies[0]


def loop_masks(study: DicomStudy) -> dict[int, Any]:
    """The plain loop: masks of the CT's own pixels by ROI number."""
    assert study.structures is not None
    plane = study.ct[0].plane
    assert plane is not None
    heights = sorted(h.plane.position[2] for h in study.ct if h.plane is not None)
    masks = {}
    for roi in pydicom.dcmread(study.structures.path).ROIContourSequence:
        mask = np.zeros((len(heights), plane.rows, plane.columns), dtype=bool)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            k = int(np.argmin(np.abs(np.array(heights) - points[0, 2])))
            image = Image.new("1", (plane.columns, plane.rows))
            pixels = (points[:, :2] - plane.position[:2]) / plane.spacing[::-1]
            ImageDraw.Draw(image).polygon([tuple(p) for p in pixels], fill=1, outline=1)
            mask[k] ^= np.array(image)
        masks[int(roi.ReferencedROINumber)] = mask
    return masks


def loop_study(study: DicomStudy) -> Any:
    """The plain loop with CT and dose."""
    slices = sorted((pydicom.dcmread(h.path) for h in study.ct), key=lambda d: float(d.ImagePositionPatient[2]))
    hu = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices])
    dose = pydicom.dcmread(study.doses[0].path)
    return hu, loop_masks(study), dose.pixel_array * float(dose.DoseGridScaling)


def loop_on_grid(study: DicomStudy) -> dict[int, Any]:
    """The plain loop, then every third pixel: the centres of the Case's voxels."""
    return {number: mask[:, 1:-1:GROUP, 1:-1:GROUP] for number, mask in loop_masks(study).items()}


def our_masks(study: DicomStudy) -> dict[int, Any]:
    """Ours on the Case's voxels of three by three pixels."""
    assert study.structures is not None
    ct = stack(study.ct)
    low, high = ct.lattice.corners_mm()
    rasteriser = Rasteriser(ct.lattice, case_grid(ct, low, high))
    return {
        roi.number: rasteriser.mask(roi)[0][:, :VOXELS, :VOXELS] for roi in read_structures(study.structures.path).rois
    }


def _seconds(work: Callable[[DicomStudy], Any], study: DicomStudy) -> float:
    before = os.times()
    work(study)
    after = os.times()
    return (after.user - before.user) + (after.system - before.system)


def measure_reading() -> tuple[dict[str, float], float]:
    """CPU seconds of each way of reading one study, and the mean Dice of both ways of drawing its structures."""
    with tempfile.TemporaryDirectory() as folder:
        study = write_patient(Path(folder) / "patient")
        agreement = statistics.mean(
            2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
            for ours, theirs in zip(
                *(list(dict(sorted(f(study).items())).values()) for f in (our_masks, loop_on_grid)), strict=True
            )
        )
        costs = {
            "structures: plain loop": min(_seconds(loop_on_grid, study) for _ in range(REPEATS)),
            "structures: ours": min(_seconds(our_masks, study) for _ in range(REPEATS)),
            "study: plain loop, without plates": min(_seconds(loop_study, study) for _ in range(REPEATS)),
            "study: ours, without plates": _whole(replace(study, plan=None)),
            "study: ours, with plates": _whole(study),
        }
    return costs, agreement


def table(costs: dict[str, float], agreement: float) -> str:
    """The same for a screen."""
    lines = [f"mean Dice of both on the Case's grid: {agreement:.4f}", ""]
    lines += ["| what | CPU-s | times as fast as the loop |", "|---|---:|---:|"]
    for name, seconds in costs.items():
        loop = costs["structures: plain loop" if name.startswith("structures") else "study: plain loop, without plates"]
        lines.append(f"| {name} | {seconds:.2f} | {loop / seconds:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    costs, agreement = measure_reading()
    print(json.dumps({"cpu_s": costs, "mean_dice_of_both": agreement}) if as_json else table(costs, agreement))


def _whole(study: DicomStudy) -> float:
    """CPU seconds of reading a Case, of this process and of the reading one, whose start is left out."""
    once, more = (_with_worker(study, reads) for reads in (1, 1 + REPEATS))
    return (more - once) / REPEATS


def _with_worker(study: DicomStudy, reads: int) -> float:
    """CPU seconds of so many reads and of a reading process that starts before them and ends after."""
    worker().close()  # one that has read something else before
    before = os.times()
    for _ in range(reads):
        read_case(study)
    worker().close()  # its seconds are known when it has ended
    after = os.times()
    parts = ("user", "system", "children_user", "children_system")
    return float(sum(getattr(after, part) - getattr(before, part) for part in parts))


if __name__ == "__main__":
    main()
