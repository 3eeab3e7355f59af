"""The files that `client predict` writes: doses, DVHs, a report for a physicist, numbers for a program.

``dose.npz`` (dose_gy, spacing_mm, origin_mm; axes z, y, x) always; ``dose.dcm`` where the input was DICOM;
``dvh.csv``, ``report.html``, ``report.json``; ``view.npz`` for the site's page (grey: the CT in its window as 0..255;
masks: the structures of the DVHs, in their order, packed along x). The RTDOSE carries the patient's identifiers, as it
must, or it could not be imported. All others name the case by its pseudonym.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.data.npz import write_arrays
from client.dicom.write import Origin, write_dose
from client.prediction.predict import PredictedDose, Predictor
from client.reports.page import Page
from client.reports.patient import prediction_figure
from client.reports.slices import CT_WINDOW_HU
from shared_model.core.files import ORDINARY, write_text
from shared_model.patient.case import Case
from shared_model.scoring.dosimetry import LOW_DOSE_GY, SCORE_KEYS, dvh_curve, dvh_metrics, score_case

STEP_GY = 0.1
# A structure of fewer voxels has a coarse DVH: the report says so.
FEW_VOXELS = 30


def write_answer(out: Path, answer: PredictedDose, predictor: Predictor, origin: Origin | None) -> dict[str, Any]:
    """Write all files of one prediction; returns what report.json holds."""
    record = _record(answer, predictor, origin is not None)
    grid = answer.case.grid
    arrays = {"dose_gy": answer.dose_gy, "spacing_mm": np.array(grid.spacing_mm), "origin_mm": np.array(grid.origin_mm)}
    write_arrays(out / "dose.npz", arrays)
    write_arrays(out / "view.npz", _view(answer.case))
    if origin is not None:
        write_dose(out / "dose.dcm", answer.dose_gy, grid, origin, adapter=predictor.name)
    write_text(out / "dvh.csv", dvh_csv(answer), mode=ORDINARY)
    write_text(out / "report.html", _page(answer, record).html(), mode=ORDINARY)
    write_text(out / "report.json", json.dumps(record, indent=1, allow_nan=False) + "\n", mode=ORDINARY)
    return record


def _view(case: Case) -> dict[str, NDArray[np.uint8]]:
    """Return anatomy (z, y, x) and structures (n, z, y, x / 8) as the page draws them."""
    low, high = CT_WINDOW_HU
    shown = 0.4 * case.body if case.ct_hu is None else np.clip((case.ct_hu - low) / (high - low), 0.0, 1.0)
    masks = [case.structures[name] for name in _present(case)]
    packed = np.packbits(np.stack(masks) if masks else np.zeros((0, *case.grid.shape), bool), axis=-1)
    return {"grey": (255 * shown).astype(np.uint8), "masks": packed}


def dvh_csv(answer: PredictedDose) -> str:
    """Return cumulative DVHs in steps of STEP_GY: structure, dose, volume (%), volume of the case's own dose if any."""
    case, doses = answer.case, _doses(answer)
    levels = torch.arange(0.0, float(doses.max()) + 2 * STEP_GY, STEP_GY)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["structure", "dose_gy", "volume_percent", *(["reference_volume_percent"] if len(doses) == 2 else [])]
    )
    for name in _present(case):
        curves = 100.0 * dvh_curve(doses, torch.from_numpy(case.structures[name]), levels).numpy()
        known = curves[:1] if name in case.cut_by_dose else curves
        for k, level in enumerate(levels.tolist()):
            row = [f"{curve[k]:.3f}" for curve in known]
            writer.writerow([name, f"{level:.1f}", *row, *([""] * (len(curves) - len(row)))])
    return text.getvalue()


def _doses(answer: PredictedDose) -> Tensor:
    """The prediction, then the reference where there is one: (1 or 2, z, y, x)."""
    found = [answer.dose_gy] + ([] if answer.case.dose_gy is None else [answer.case.dose_gy])
    return torch.from_numpy(np.stack(found))


def _present(case: Case) -> list[str]:
    organs = sorted(name for name in case.structures if name not in case.targets)
    return [name for name in (*case.targets, *organs) if case.structures[name].any()]


def _record(answer: PredictedDose, predictor: Predictor, dicom: bool) -> dict[str, Any]:
    case, how = answer.case, answer.how
    doses = _doses(answer)
    metrics = dvh_metrics(doses, {name: case.structures[name] for name in _present(case)}, case.grid.voxel_cc)
    files = ["dose.npz", "dvh.csv", "report.html", "view.npz"]
    files += ["dose.dcm"] if dicom else []
    record: dict[str, Any] = {
        "case": case.case_id,
        "adapter": predictor.name,
        "adapter_name": str(predictor.card.get("name", "")),
        "privacy": dict(predictor.card.get("privacy", {})),
        "drawn": {
            "samples": how.samples,
            "steps": how.steps,
            "seed": how.seed,
            "preference": None if how.preference is None else how.preference.words,
        },
        "scores": list(answer.scores),
        "notes": [*answer.notes, *_few_voxels(case)],
        "prescriptions_gy": dict(case.prescriptions_gy),
        "metrics_gy": {name: round(float(value[0]), 3) for name, value in metrics.items()},
        "grid": {"shape": list(case.grid.shape), "spacing_mm": list(case.grid.spacing_mm)},
        "seconds": round(answer.seconds, 2),
        "peak_memory_mb": round(answer.peak_mb),
        "files": files,
    }
    if case.dose_gy is not None and bool((case.dose_gy[case.body] > LOW_DOSE_GY).any()):
        score = score_case(case, torch.from_numpy(answer.dose_gy))
        unknown = {f"{name}/mean" for name in case.cut_by_dose}
        record["reference_gy"] = {k: round(float(v[1]), 3) for k, v in metrics.items() if k not in unknown}
        record["against_reference"] = {key: round(getattr(score, key), 3) for key in SCORE_KEYS if hasattr(score, key)}
    return record


def _few_voxels(case: Case) -> list[str]:
    few = {name: int(case.structures[name].sum()) for name in _present(case)}
    return [f"{name} has {n} voxels on this grid: its DVH is coarse" for name, n in few.items() if n < FEW_VOXELS]


def _page(answer: PredictedDose, record: dict[str, Any]) -> Page:
    case, how = answer.case, answer.how
    page = Page(f"Predicted dose: case {case.case_id}")
    what = f"the mean of {how.samples} samples" + ("" if how.preference is None else f", {how.preference.words}")
    page.paragraph(
        f"Adapter {record['adapter']} {record['adapter_name']}. Dose: {what}, {how.steps} steps each, seed {how.seed}. "
        f"{answer.seconds:.1f} s, at most {answer.peak_mb:.0f} MB of memory in this process."
    )
    page.items(record["notes"])
    page.picture(prediction_figure(case, answer.dose_gy, f"Case {case.case_id}"), "slices and DVHs")
    page.heading("DVH metrics (Gy)")
    reference = record.get("reference_gy", {})
    header = ["structure", "metric", "predicted", *(["reference", "difference"] if reference else [])]
    rows: list[list[str | float]] = []
    for key, value in record["metrics_gy"].items():
        row: list[str | float] = [*key.split("/"), value]
        if key in reference:
            row = [*row, reference[key], value - reference[key]]
        elif reference:
            row = [*row, "not known", ""]  # the case's own dose grid ends within the organ
        rows.append(row)
    page.table(header, rows)
    if "against_reference" in record:
        page.table(["against the case's own dose", "Gy"], [[k, v] for k, v in record["against_reference"].items()])
    if record["scores"]:
        page.heading("Score of each sample")
        page.table(["sample", "score"], [[k, v] for k, v in enumerate(record["scores"], 1)])
    statement = record["privacy"].get("statement")
    if statement:
        page.paragraph(f"Of the adapter: {statement}")
    return page
