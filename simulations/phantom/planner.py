"""Inverse planning of phantom patients: a hospital's dose goals, and the fluence that comes closest to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from shared_model.patient.case import Mask, Volume
from shared_model.patient.geometry import Grid
from shared_model.patient.plates import target_centroid_mm
from simulations.phantom.dose_engine import DoseEngine, electron_density


@dataclass(frozen=True, kw_only=True)
class PlanStyle:
    """How a hospital plans. Doses in Gy, weights relative to the targets' weight of 12.

    ``levels_gy`` are prescriptions from the highest; ``level_chance`` how often each is used. ``max_gy``, ``mean_gy``
    limit organs: (limit, weight). Dose outside targets should stay below ``falloff_floor`` + (1 - ``falloff_floor``)
    exp(-distance / ``falloff_mm``) of the prescription. The plan is scaled so that ``normalise_volume`` of the highest
    target gets its prescription times ``normalise_dose``, which varies between patients by ``normalise_spread``;
    ``scatter`` varies the limits (both log sd).
    """

    gantry_deg: tuple[float, ...]
    levels_gy: tuple[float, ...]
    level_chance: tuple[float, ...]
    max_gy: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean_gy: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    falloff_floor: float = 0.35
    falloff_mm: float = 32.0
    falloff_weight: float = 1.0
    normalise_volume: float = 0.95
    normalise_dose: float = 1.0
    normalise_spread: float = 0.0
    scatter: float = 0.15


@dataclass(frozen=True, kw_only=True)
class _Goals:
    """Per optimised voxel: one-sided squared penalties below ``low_gy`` and above ``high_gy``; and organ means."""

    low_gy: NDArray[np.float32]
    low_weight: NDArray[np.float32]
    high_gy: NDArray[np.float32]
    high_weight: NDArray[np.float32]
    means: tuple[tuple[NDArray[np.intp], float, float], ...]

    def value(self, dose: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        """Objective and its derivative by dose."""
        short = np.maximum(self.low_gy - dose, 0)
        over = np.maximum(dose - self.high_gy, 0)
        slope = 2 * (self.high_weight * over - self.low_weight * short)
        total = float((self.low_weight * short**2 + self.high_weight * over**2).sum())
        for members, limit_gy, weight in self.means:
            excess = max(float(dose[members].mean()) - limit_gy, 0.0)
            total += weight * excess**2
            slope[members] += 2 * weight * excess / len(members)
        return total, slope


# Relative weights of target goals, and the tolerated range about the prescription.
_TARGET_WEIGHT = 12.0
_TARGET_RANGE = (1.0, 1.05)
_UNDERDOSE_FACTOR = 4.0
# Within this length of a target of a higher level, a target may exceed its own level: no beam edge is sharper.
_STEP_MM = 20.0
# Every body voxel counts to the fall-off; one in this many is optimised.
_BODY_STRIDE = 3
_ITERATIONS = 50


def plan_dose(
    ct_hu: Volume,
    body: Mask,
    structures: Mapping[str, Mask],
    prescriptions_gy: Mapping[str, float],
    grid: Grid,
    style: PlanStyle,
    rng: np.random.Generator,
) -> Volume:
    """Dose (z, y, x) Gy of an optimised plan, zero outside ``body``. Deterministic given ``rng``'s state.

    ``structures`` holds the masks of the targets named in ``prescriptions_gy`` (disjoint) and of organs.
    """
    highest = max(prescriptions_gy, key=lambda name: prescriptions_gy[name])
    targets = np.logical_or.reduce([structures[name] for name in prescriptions_gy])
    isocentre_mm = target_centroid_mm(structures[highest], grid)
    engine = DoseEngine(electron_density(ct_hu, body), grid, isocentre_mm, style.gantry_deg, targets, body)
    rows, goals = _goals(body, structures, prescriptions_gy, grid, style, rng)
    part = engine.restrict(rows)

    def objective(fluence: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = goals.value(part.dose(fluence))
        return total, part.gradient(slope).astype(np.float64)

    start = np.ones(engine.fluence_size)
    start *= prescriptions_gy[highest] / float(engine.dose(start)[targets[body]].mean())
    found = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=optimize.Bounds(0.0, np.inf),
        options={"maxiter": _ITERATIONS, "maxcor": 8},
    )
    wanted_gy = (
        prescriptions_gy[highest] * style.normalise_dose * np.exp(style.normalise_spread * rng.standard_normal())
    )
    values = engine.dose(found.x)
    reached_gy = float(np.quantile(values[structures[highest][body]], 1 - style.normalise_volume))
    dose = np.zeros(grid.shape, dtype=np.float32)
    dose[body] = values * (wanted_gy / max(reached_gy, 1e-3))
    return dose


def _goals(
    body: Mask,
    structures: Mapping[str, Mask],
    prescriptions_gy: Mapping[str, float],
    grid: Grid,
    style: PlanStyle,
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], _Goals]:
    """Rows (indices into the body's voxels) to optimise, and their goals; ``rng`` varies limits by ``scatter``."""

    def vary(value: float) -> float:
        return value * float(np.exp(style.scatter * rng.standard_normal()))

    ptv_gy = np.zeros(grid.shape, dtype=np.float32)
    for name, level in prescriptions_gy.items():
        ptv_gy[structures[name]] = level
    outside = body & (ptv_gy == 0)
    low, low_weight, high_weight = (np.zeros(grid.shape, dtype=np.float32) for _ in range(3))
    high = _falloff_gy(ptv_gy, grid, style, vary(style.falloff_mm)).astype(np.float32)
    sampled = np.flatnonzero(outside)[::_BODY_STRIDE]
    high_weight.flat[sampled] = vary(style.falloff_weight) / max(len(sampled), 1)
    for name, level in prescriptions_gy.items():
        mask = structures[name]
        low[mask] = level * _TARGET_RANGE[0]
        high[mask] = _target_limit_gy(ptv_gy, level, grid)[mask]
        low_weight[mask] = _TARGET_WEIGHT * _UNDERDOSE_FACTOR / int(mask.sum())
        high_weight[mask] = _TARGET_WEIGHT / int(mask.sum())
    for name, (limit_gy, weight) in style.max_gy.items():
        inside = structures[name] & outside if name in structures else np.zeros(0, dtype=bool)
        if inside.any():
            high[inside] = np.minimum(high[inside], vary(limit_gy))
            high_weight[inside] += weight / int(inside.sum())
    organs = {name: structures[name][body] for name in style.mean_gy if name in structures}
    used = ((high_weight + low_weight) > 0)[body]
    rows = np.flatnonzero(np.logical_or.reduce([used, *organs.values()]))
    means = tuple(
        (np.flatnonzero(inside[rows]), vary(style.mean_gy[name][0]), vary(style.mean_gy[name][1]))
        for name, inside in organs.items()
        if inside.any()
    )
    volumes = {"low_gy": low, "low_weight": low_weight, "high_gy": high, "high_weight": high_weight}
    return rows, _Goals(means=means, **{key: volume[body][rows] for key, volume in volumes.items()})


def _target_limit_gy(ptv_gy: Volume, level_gy: float, grid: Grid) -> NDArray[np.float64]:
    """The dose that a target of ``level_gy`` may reach: more near a target of a higher level."""
    limit = np.full(ptv_gy.shape, level_gy * _TARGET_RANGE[1])
    above = ptv_gy > level_gy
    if above.any():
        step_gy = float(ptv_gy.max()) - level_gy
        distance_mm = ndimage.distance_transform_edt(~above, sampling=grid.spacing_mm)
        limit += step_gy * np.exp(-distance_mm / _STEP_MM)
    return limit


def _falloff_gy(ptv_gy: Volume, grid: Grid, style: PlanStyle, falloff_mm: float) -> NDArray[np.float64]:
    """The dose that normal tissue should stay below, from the distance to the nearest target voxel and its level."""
    distance_mm, nearest = ndimage.distance_transform_edt(
        ptv_gy == 0, sampling=grid.spacing_mm, return_distances=True, return_indices=True
    )
    level = ptv_gy[tuple(nearest)]
    floor = style.falloff_floor
    return np.asarray(level * (floor + (1 - floor) * np.exp(-distance_mm / falloff_mm)), dtype=np.float64)
