"""A cohort in OpenKBP's npz form, as `simulate convert` writes it, with few voxels: half and native resolution."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from client.data.npz import write_arrays
from simulations.data.compact import META, half_arrays, native_arrays
from simulations.data.csv_patient import STRUCTURES, CsvPatient

EDGE = 32
SPLITS: Mapping[str, Sequence[str]] = {"train": ("pt_1",), "validation": ("pt_201",), "test": ("pt_241", "pt_242")}
LACKS_CT = "pt_242"
# In a ball: (anterior, right, superior) of the middle, and the radius, in native voxels.
_BALLS: Mapping[str, tuple[float, float, float, float]] = {
    "SpinalCord": (24.0, 16.0, 16.0, 2.5), "RightParotid": (14.0, 7.0, 14.0, 3.0),
    "LeftParotid": (14.0, 25.0, 14.0, 3.0), "PTV56": (15.0, 20.0, 18.0, 4.0), "PTV70": (14.0, 13.0, 16.0, 5.0),
}  # fmt: skip


def write_cohort(root: Path) -> Path:
    """Write four patients, one of them without CT, and splits.json; returns ``root``."""
    for case_id in (case_id for split in SPLITS.values() for case_id in split):
        patient = _patient(int(case_id[3:]), ct=case_id != LACKS_CT)
        write_arrays(root / "full128" / f"{case_id}.npz", native_arrays(patient))
        write_arrays(root / "half64" / f"{case_id}.npz", half_arrays(patient))
    (root / "splits.json").write_text(json.dumps({split: list(ids) for split, ids in SPLITS.items()}))
    (root / "meta.json").write_text(json.dumps(META | {"without_ct": [LACKS_CT]}))
    return root


def _patient(number: int, ct: bool) -> CsvPatient:
    """A round neck in the data set's axes; dose falls off from the high target. ``number`` moves it a little."""
    y, x, s = np.meshgrid(*[np.arange(EDGE)] * 3, indexing="ij")
    aside = number % 3

    def ball(cy: float, cx: float, cs: float, r: float) -> np.ndarray:
        return np.asarray((y - cy) ** 2 + (x - cx - aside) ** 2 + (s - cs) ** 2 <= r * r)

    body = ((y - 16) / 13.0) ** 2 + ((x - 16) / 14.0) ** 2 <= 1
    masks = np.stack([ball(*_BALLS[name]) & body if name in _BALLS else np.zeros_like(body) for name in STRUCTURES])
    cy, cx, cs, r = _BALLS["PTV70"]
    away = np.sqrt((y - cy) ** 2 + (x - cx - aside) ** 2 + (s - cs) ** 2)
    dose = np.where(body, 71.0 * np.exp(-np.maximum(away - r, 0) / 12.0), 0.0)
    return CsvPatient(
        ct=np.where(body, 1000.0 + 3 * y, 0.0) if ct else None,
        dose_gy=dose,
        body=body,
        masks=masks,
        voxel_mm=np.array([4.0, 4.0, 3.0]),
        missing=() if ct else ("ct",),
    )
