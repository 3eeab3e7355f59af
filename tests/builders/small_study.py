"""A complete phantom study, small and without the planner's optimisation, for tests that need DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from simulations.phantom.dicom import write_study
from simulations.phantom.dicom_files import Identity
from simulations.phantom.planes import Scan

GANTRY_DEG = (0.0, 72.0, 144.0, 216.0, 288.0)


def ellipsoid_case(case_id: str = "a", level_gy: float = 70.0, size: float = 1.0) -> Case:
    """A neck of ellipsoids: target, cord, left parotid, smooth dose. ``size`` scales its body."""
    grid = Grid((24, 26, 28), (5.0, 7.0, 7.0), (-60.0, -90.0, -95.0))
    z, y, x = np.meshgrid(*(grid.centres_mm(axis) for axis in range(3)), indexing="ij")

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        parts = (((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True))
        return np.asarray(sum(parts) <= 1.0)

    body = ellipsoid((0, 0, 0), (400.0, 80.0 * size, 85.0 * size))
    target = ellipsoid((0, -10, 5), (42, 42, 40)) & body
    dose = np.where(body, level_gy * 1.03 * np.exp(-(((y + 10) / 140) ** 2) - ((x - 5) / 140) ** 2), 0.0)
    dose *= np.clip((62.0 - np.abs(z)) / 20.0, 0.0, 1.0)
    dose[target] = np.maximum(dose[target], level_gy)
    return Case(
        case_id=case_id,
        grid=grid,
        body=body,
        structures={
            f"PTV_{round(level_gy * 100)}": target,
            "SpinalCord": ellipsoid((0, 55, 0), (400, 9, 9)),
            "Parotid_L": ellipsoid((20, 0, 62), (20, 18, 14)),
        },
        prescriptions_gy={f"PTV_{round(level_gy * 100)}": level_gy},
        ct_hu=np.where(body, 30.0, -1000.0).astype(np.float32),
        dose_gy=dose.astype(np.float32),
    )


def write_small_study(folder: Path, index: int = 0, scan: Scan | None = None, case: Case | None = None) -> Case:
    """Write one study with the identity of phantom ``index``; returns the Case that it was made from."""
    made = ellipsoid_case(f"ph_{index}", size=1.0 + 0.01 * index) if case is None else case
    write_study(folder, made, scan or Scan(), Identity.of_phantom(7, index), GANTRY_DEG)
    return made
