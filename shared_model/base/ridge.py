"""Closed-form base of the residual form: ridge regression of dose on physics features (docs/model.md).

A site sums X'X and X'y over its patients and sends nothing else. Each patient's sums are rounded to int64 fixed point
before they are added. So however the patients are split over sites, sums and solution equal the pooled ones to the bit.
The diffusion model then learns dose minus base (the idea of CorrDiff, Mardani et al. 2023, arXiv:2309.15214).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared_model.base.interface import Base
from shared_model.channels.features import NAMES, Features, highest_gy
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
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

FOURIER_SCALE = 0.25
FOURIER_SEED = 20260101
# Standardised features are cut off here, so that a strange voxel cannot dominate the sums. With the knots above, every
# entry of a design row is below 12 and every product below PRODUCT_BOUND.
_CUT = 6.0
_RATIO_CUT = 3.0
PRODUCT_BOUND = 144.0
# Every patient weighs the same: a mean over this many of the body's voxels (all, if there are fewer).
VOXELS_PER_PATIENT = 2000
# Penalty on the coefficients, per unit of mean square. On OpenKBP's validation patients 3e-4 to 3e-3 do equally well.
PENALTY = 1e-3
# Fixed point of the sums: 1e-10 of a mean product, far below PENALTY; int64 has room for 10 million patients.
SCALE = 2.0**32
# Treatment plans stay below this dose, in units of the highest prescription.
HOTTEST = 1.15
_ROWS = 20_000

Sums = NDArray[np.int64]
Weights = NDArray[np.float32]
Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Coefficients (d,) float32, the number of patients behind them, and the root mean square error / prescription."""

    weights: Weights
    patients: int
    residual: float


def columns(fourier: int) -> int:
    """Number d of coefficients: a constant, the features, their hinges, and ``fourier`` random Fourier features."""
    return 1 + len(NAMES) + _hinges()[0].size + fourier


def sums_size(fourier: int) -> int:
    """Length of a site's sums: the upper triangle of the Gram matrix of (row, dose), and the number of patients."""
    d = columns(fourier) + 1
    return d * (d + 1) // 2 + 1


@lru_cache(maxsize=1)
def _hinges() -> tuple[NDArray[np.intp], Rows, Rows, Rows]:
    """(feature of each hinge, its knot in standard units, centres (24,), scales (24,))."""
    which = [i for i, name in enumerate(NAMES) for _ in BASIS[name][2]]
    knots = [(knot - BASIS[name][0]) / BASIS[name][1] for name in NAMES for knot in BASIS[name][2]]
    centres, scales = ([BASIS[name][k] for name in NAMES] for k in (0, 1))
    f4 = np.float32
    return np.array(which), np.array(knots, f4), np.array(centres, f4), np.array(scales, f4)


@lru_cache(maxsize=8)
def _fourier(count: int) -> tuple[Rows, Rows]:
    """Random directions (24, count) and phases (count,) (Rahimi and Recht 2007), the same everywhere.

    RandomState, not Generator: NumPy promises that its stream never changes.
    """
    random = np.random.RandomState(FOURIER_SEED)
    directions = random.standard_normal((count, len(NAMES))).T * FOURIER_SCALE
    phases = random.random_sample(count) * 2 * np.pi
    return np.ascontiguousarray(directions, dtype=np.float32), phases.astype(np.float32)


def design(features: Features, fourier: int) -> Rows:
    """Rows (n, d) of the regression from features (n, 24)."""
    which, knots, centres, scales = _hinges()
    z = np.clip((features.astype(np.float32) - centres) / scales, -_CUT, _CUT)
    parts = [np.ones((len(z), 1), np.float32), z, np.maximum(z[:, which] - knots, 0)]
    if fourier:
        directions, phases = _fourier(fourier)
        parts.append(np.cos(z @ directions + phases))
    return np.concatenate(parts, axis=1)


def patient_sums(case: Case, features: Features, fourier: int) -> Sums:
    """One patient's share of the sums, (s,) int64: mean products of (row, dose / prescription) times 2^32; then a 1.

    It depends only on the patient, so it is the same at any site and beside any other patients. All zero for a patient
    without targets, who has no unit of dose. Raises InputError if the case has no dose.
    """
    if case.dose_gy is None:
        raise InputError(f"case {case.case_id}: no dose; the base cannot be fitted to it")
    unit_gy = highest_gy(case)
    if unit_gy == 0:
        return np.zeros(sums_size(fourier), dtype=np.int64)
    n = len(features)
    chosen = np.sort(np.random.RandomState(n).permutation(n)[:VOXELS_PER_PATIENT])
    ratio = np.minimum(case.dose_gy[case.body][chosen] / unit_gy, _RATIO_CUT)
    rows = np.concatenate([design(features[chosen], fourier), ratio[:, None]], axis=1).astype(np.float64)
    gram = rows.T @ rows / len(chosen)
    upper = gram[np.triu_indices(gram.shape[0])]
    return np.append(np.rint(upper * SCALE), 1).astype(np.int64)


def check_sums(sums: Sums, patients: int, fourier: int) -> None:
    """Raise InputError for sums that a site of ``patients`` patients cannot have."""
    if sums.dtype != np.int64 or sums.shape != (sums_size(fourier),):
        raise InputError(f"base: expected {sums_size(fourier)} whole numbers")
    if not 0 <= sums[-1] <= patients:
        raise InputError("base: counts more patients than the site has")
    bound = int(sums[-1]) * int(PRODUCT_BOUND * SCALE)
    if sums[:-1].max() > bound or sums[:-1].min() < -bound:
        raise InputError("base: a sum is larger than its patients allow")


def solve(sums: Sums, fourier: int) -> Solution:
    """Solve the ridge regression of all patients behind ``sums`` (s,), in float64. InputError if there are none."""
    patients = int(sums[-1])
    if patients < 1:
        raise InputError("base: no patient with targets to fit it to")
    d = columns(fourier)
    gram = np.zeros((d + 1, d + 1))
    gram[np.triu_indices(d + 1)] = sums[:-1] / (SCALE * patients)
    gram = gram + np.triu(gram, 1).T
    left, right = gram[:d, :d], gram[:d, d]
    weights = np.linalg.solve(left + PENALTY * np.eye(d), right)
    if not np.isfinite(weights).all():
        raise InputError("base: the sums have no finite solution")
    square = float(gram[d, d] - 2 * weights @ right + weights @ left @ weights)
    return Solution(weights=weights.astype(np.float32), patients=patients, residual=max(square, 0.0) ** 0.5)


def predict(case: Case, features: Features, weights: Weights, fourier: int) -> Volume:
    """The base dose of a case, (z, y, x) Gy on its own grid. 0 outside the body, and 0 everywhere without targets."""
    unit_gy = highest_gy(case)
    out = np.zeros(case.grid.shape, dtype=np.float32)
    if unit_gy > 0:
        ratio = np.concatenate([rows @ weights for rows in _blocks(features, fourier)])
        out[case.body] = np.clip(ratio, 0.0, HOTTEST) * np.float32(unit_gy)
    return out


def _blocks(features: Features, fourier: int) -> Iterator[Rows]:
    for start in range(0, len(features), _ROWS):
        yield design(features[start : start + _ROWS], fourier)


def with_weights(spec: ModelSpec, weights: Weights) -> ModelSpec:
    """``spec`` with the base's coefficients added."""
    text = base64.b64encode(np.asarray(weights, dtype="<f4").tobytes()).decode()
    return replace(spec, base_weights=text)


@lru_cache(maxsize=64)
def weights_of(spec: ModelSpec) -> Weights:
    """The coefficients (d,) in a fitted spec. Raises InputError if they are missing or do not fit its base."""
    if not spec.base_weights:
        raise InputError("model.base=ridge: the base has no coefficients yet; fit it before the model is used")
    try:
        weights = np.frombuffer(base64.b64decode(spec.base_weights, validate=True), dtype="<f4")
    except ValueError as error:
        raise InputError("model.base_weights: not base64 of float32 numbers") from error
    if weights.shape != (columns(spec.base_fourier),) or not np.isfinite(weights).all():
        raise InputError(f"model.base_weights: expected {columns(spec.base_fourier)} finite numbers")
    return weights.astype(np.float32)


class RidgeBase(Base):
    """The base that is fitted in closed form. Its coefficients are then in the specification."""

    def dose(self, case: Case, features: Features, weights: bytes) -> Volume | None:
        """The fitted dose, (z, y, x) Gy. ``weights`` are not used. InputError if the base is not fitted."""
        return predict(case, features, self.coefficients(), self.spec.base_fourier)

    def fixed_hash(self) -> str | None:
        """SHA-256 hex of the coefficients' float32 bytes. None before they are fitted."""
        return hashlib.sha256(self.coefficients().tobytes()).hexdigest() if self.spec.base_weights else None

    def coefficients(self) -> Weights:
        """The fitted coefficients (d,). Raises InputError if they are missing or do not fit this base."""
        return weights_of(self.spec)

    def with_coefficients(self, coefficients: Weights) -> ModelSpec:
        """The specification, with the fitted ``coefficients`` (d,) added."""
        return with_weights(self.spec, coefficients)
