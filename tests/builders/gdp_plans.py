"""Phantom patients in the layout of the GDP-HMM challenge, for tests of what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shared_model.patient.case import Case

PLAN = "0522c0009+9Ag+MOS_29166"
SCALE = 2e-5
NAMES = {"PTV_High": ("PTV70OPT", "OPTName"), "PTV_Mid": ("PTV63", "StructName"), "PTV_Low": ("PTV56", "StructName")}
OWN = {
    "Parotid_L": "Parotid Gland Left",
    "Parotid_R": "Parotid_R",
    "SpinalCord": "Spinal Cord",
    "Brainstem": "Brainstem",
}


def content_of(case: Case, **changes: Any) -> dict[str, Any]:
    """The phantom in the challenge's keys, units and orders; None as a change leaves a key out."""
    assert case.dose_gy is not None
    z, y, x = case.grid.spacing_mm
    content: dict[str, Any] = {
        "img": case.ct_hu,
        "dose": np.rint(case.dose_gy / SCALE).astype(np.uint32),
        "dose_scale": SCALE,
        "Body": case.body.astype(np.uint8),
        "isocenter": np.array([10.0, 12.0, 14.0], dtype=np.float32),
        "spacing": (x, y, z),
        "origin": case.grid.origin_mm[::-1],
        "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        "isVMAT": False,
        "angle_list": np.arange(9, dtype=np.float32),
        "all_mask": ["Body", "BODY"],
        "BODY": np.ones(case.grid.shape, dtype=np.uint8),
        "PTV 59.4": case.body.astype(np.uint8),
        "BrainStem_03": case.body.astype(np.uint8),
    }
    if case.beam_plate is not None and case.angle_plate is not None:
        lit = np.flatnonzero(case.angle_plate.any(axis=(1, 2)))
        content["beam_plate"] = case.beam_plate.astype(np.float64)
        content["angle_plate"] = case.angle_plate[lit[len(lit) // 2]]
    for name, own in OWN.items():
        if name in case.structures:
            content[own] = case.structures[name].astype(np.uint8)
    for name, level in zip(case.targets, NAMES, strict=False):
        content[NAMES[level][0]] = case.structures[name].astype(np.uint8)
    return {key: value for key, value in (content | changes).items() if value is not None}


def write_plan(folder: Path, case: Case, plan: str = PLAN, **changes: Any) -> Path:
    """One plan's file and the table of prescriptions beside it; returns the file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{plan}.npz"
    np.savez_compressed(path, content_of(case, **changes))  # type: ignore[arg-type]
    levels = {
        level: {NAMES[level][1]: NAMES[level][0], "PDose": case.prescriptions_gy[name]}
        for name, level in zip(case.targets, NAMES, strict=False)
    }
    (folder / "PTV_DICT.json").write_text(
        json.dumps(dict.fromkeys(("0522c0009", "001", "002", "003", "005", "007"), levels))
    )
    return path
