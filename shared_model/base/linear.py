"""A dose that is linear in the physics features and their hinges: rows from features, dose from coefficients.

The phantom base corrects such coefficients (shared_model/base/phantom.py); `simulate baselines` fits them to patients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared_model.channels.features import NAMES, Features, highest_gy
from shared_model.patient.case import Case, Volume

# For each feature: centre, scale and the knots of its hinges. They are public constants, round figures in natural units
# (mm, fractions of the prescription, thousands of HU, log of cm3). Nothing here is fitted to patients.
_SURFACE_MM = (-15.0, -8.0, -3.0, 0.0, 3.0, 8.0, 15.0, 25.0, 40.0, 60.0, 90.0, 130.0)
_ORGAN_MM = (-5.0, 0.0, 4.0, 8.0, 14.0, 20.0, 28.0, 36.0)
_LOG_CC = (3.0, 4.5, 5.0, 5.5, 6.0, 6.5)
_NARROW = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
_WIDE = (0.01, 0.03, 0.06, 0.1, 0.15, 0.22, 0.3, 0.4, 0.55)
BASIS: dict[str, tuple[float, float, tuple[float, ...]]] = {
    "high_mm": (75.0, 55.0, _SURFACE_MM),
    "middle_mm": (130.0, 75.0, _SURFACE_MM),
    "low_mm": (70.0, 55.0, _SURFACE_MM),
    "high_or_middle_mm": (70.0, 55.0, _SURFACE_MM),
    "target_mm": (50.0, 45.0, _SURFACE_MM),
    "beyond_mm": (10.0, 15.0, (0.0, 4.0, 8.0, 12.0, 20.0, 30.0, 45.0, 60.0)),
    "blur6": (0.1, 0.25, _NARROW),
    "blur15": (0.1, 0.2, _NARROW),
    "blur30": (0.1, 0.1, _WIDE),
    "blur60": (0.05, 0.05, (0.01, 0.02, 0.035, 0.05, 0.065, 0.08, 0.1, 0.125, 0.16)),
    "slice_blur": (0.1, 0.15, _WIDE),
    "depth_mm": (20.0, 15.0, (4.0, 7.0, 10.0, 14.0, 18.0, 24.0, 30.0, 40.0, 55.0)),
    "posterior_mm": (40.0, 55.0, (-80.0, -45.0, -20.0, 0.0, 20.0, 40.0, 60.0, 80.0, 110.0)),
    "lateral_mm": (70.0, 60.0, (5.0, 15.0, 30.0, 45.0, 60.0, 80.0, 110.0, 150.0, 210.0)),
    "superior_mm": (-30.0, 75.0, (-150.0, -115.0, -85.0, -60.0, -30.0, 0.0, 30.0, 60.0, 100.0)),
    "ct_khu": (0.0, 0.35, (-0.8, -0.5, -0.2, -0.08, -0.03, 0.02, 0.06, 0.15, 0.4)),
    "beam": (0.4, 0.35, (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.85, 0.95)),
    "slice_mm": (70.0, 70.0, _SURFACE_MM),
    "cord_mm": (36.0, 8.0, _ORGAN_MM),
    "parotid_mm": (36.0, 8.0, _ORGAN_MM),
    "brainstem_mm": (36.0, 8.0, _ORGAN_MM),
    "high_lcc": (5.5, 0.7, _LOG_CC),
    "middle_lcc": (2.5, 2.5, _LOG_CC),
    "low_lcc": (5.5, 1.5, _LOG_CC),
}

# Standardised features are cut off here, so that a strange voxel cannot dominate a fit.
CUT = 6.0
# Every patient weighs the same in a fit: a mean over this many of the body's voxels (all, if there are fewer).
VOXELS_PER_PATIENT = 2000
# Penalty on the coefficients, per unit of mean square. On OpenKBP's validation patients 3e-4 to 3e-3 do equally well.
PENALTY = 1e-3
# Treatment plans stay below this dose, in units of the highest prescription.
HOTTEST = 1.15
_ROWS = 20_000

Weights = NDArray[np.float32]
Rows = NDArray[np.float32]


def columns() -> int:
    """Number d of coefficients: a constant, the features and their hinges."""
    return 1 + len(NAMES) + _hinges()[0].size


@lru_cache(maxsize=1)
def _hinges() -> tuple[NDArray[np.intp], Rows, Rows, Rows]:
    """(feature of each hinge, its knot in standard units, centres (24,), scales (24,))."""
    which = [i for i, name in enumerate(NAMES) for _ in BASIS[name][2]]
    knots = [(knot - BASIS[name][0]) / BASIS[name][1] for name in NAMES for knot in BASIS[name][2]]
    centres, scales = ([BASIS[name][k] for name in NAMES] for k in (0, 1))
    f4 = np.float32
    return np.array(which), np.array(knots, f4), np.array(centres, f4), np.array(scales, f4)


def standardised(features: Features) -> Rows:
    """Features (n, 24) in standard units, cut off."""
    _, _, centres, scales = _hinges()
    found: Rows = np.clip((features.astype(np.float32) - centres) / scales, -CUT, CUT)
    return found


def design(features: Features) -> Rows:
    """Rows (n, d) of the regression from features (n, 24)."""
    which, knots, _, _ = _hinges()
    z = standardised(features)
    return np.concatenate([np.ones((len(z), 1), np.float32), z, np.maximum(z[:, which] - knots, 0)], axis=1)


def predict(case: Case, features: Features, weights: Weights, rows: Callable[[Features], Rows] = design) -> Volume:
    """The dose of a case, (z, y, x) Gy on its own grid. 0 outside the body, and 0 everywhere without targets.

    ``rows``: makes the rows (n, d) that belong to the coefficients ``weights`` (d,).
    """
    unit_gy = highest_gy(case)
    out = np.zeros(case.grid.shape, dtype=np.float32)
    if unit_gy > 0:
        blocks = (features[start : start + _ROWS] for start in range(0, len(features), _ROWS))
        ratio = np.concatenate([rows(block) @ weights for block in blocks])
        out[case.body] = np.clip(ratio, 0.0, HOTTEST) * np.float32(unit_gy)
    return out
