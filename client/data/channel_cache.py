"""Channel stacks kept on disk: a flat file that is mapped into memory, and a few words beside it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from shared_model.channels.layout import RECIPE
from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.core.files import whole_file
from shared_model.patient.case import Case


def case_hash(case: Case) -> str:
    """SHA-256 over the recipe and everything of the case that its channels depend on, hex."""
    grid = case.grid
    words = {
        "recipe": RECIPE,
        "shape": grid.shape,
        "spacing_mm": grid.spacing_mm,
        "prescriptions_gy": dict(case.prescriptions_gy),
        "structures": sorted(case.structures),
        "gantry_deg": list(case.gantry_deg) or None,
    }
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    volumes = [case.body, *(case.structures[name] for name in sorted(case.structures))]
    for volume in (*volumes, case.ct_hu, case.beam_plate, case.angle_plate, case.dose_gy):
        digest.update(b"none" if volume is None else np.ascontiguousarray(volume).tobytes())
    return digest.hexdigest()


def cached_patient(case: Case, folder: Path) -> PatientChannels:
    """``patient_channels`` of a case, from ``folder`` if it is kept there. The stack is mapped, read-only."""
    key = case_hash(case)[:32]
    stack_path, words_path = folder / f"{key}.npy", folder / f"{key}.json"
    if not words_path.is_file():
        made = patient_channels(case)
        with whole_file(stack_path) as stream:
            np.save(stream, made.stack)
        words = {
            "case_id": made.case_id,
            "box": made.box,
            "spacing_mm": made.spacing_mm,
            "present": made.present,
            "gantry_deg": made.gantry_deg,
            "unit_gy": made.unit_gy,
        }
        with whole_file(words_path) as stream:
            stream.write(json.dumps(words).encode())
    raw = json.loads(words_path.read_text())
    return PatientChannels(
        case_id=case.case_id,
        stack=np.load(os.fspath(stack_path), mmap_mode="r"),
        box=tuple((int(low), int(high)) for low, high in raw["box"]),
        spacing_mm=(raw["spacing_mm"][0], raw["spacing_mm"][1], raw["spacing_mm"][2]),
        present=tuple(raw["present"]),
        gantry_deg=tuple(raw["gantry_deg"]),
        unit_gy=float(raw["unit_gy"]),
    )
