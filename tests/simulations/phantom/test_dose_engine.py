"""The dose operator: exact adjoint, depth dose of a known beam, radiological depth, geometry."""

from __future__ import annotations

import numpy as np
import pytest

from shared_model.patient.geometry import Grid
from simulations.phantom.dose_engine import DoseEngine, electron_density, radiological_depth_cm

GRID = Grid((12, 40, 24), (6.0, 6.0, 6.0))
ISO = (33.0, 117.0, 69.0)


def _water() -> np.ndarray:
    density = np.zeros(GRID.shape, dtype=np.float32)
    density[:, 5:38] = 1.0
    return density


def _target() -> np.ndarray:
    target = np.zeros(GRID.shape, dtype=bool)
    target[3:9, 16:24, 8:16] = True
    return target


@pytest.mark.parametrize("gantry", [0.0, 55.0, 270.0])
def test_gradient_is_the_exact_adjoint(gantry: float) -> None:
    water = _water()
    engine = DoseEngine(water, GRID, ISO, [gantry, gantry + 40], _target(), water > 0)
    rng = np.random.default_rng(1)
    fluence, by_dose = rng.random(engine.fluence_size), rng.normal(size=int((water > 0).sum()))
    left = float(np.dot(engine.dose(fluence).astype(np.float64), by_dose))
    right = float(np.dot(fluence, engine.gradient(by_dose).astype(np.float64)))
    assert left == pytest.approx(right, rel=1e-3, abs=1e-2)


def test_restriction_is_a_subset_of_the_same_dose() -> None:
    water = _water()
    engine = DoseEngine(water, GRID, ISO, [10.0], _target(), water > 0)
    rows = np.array([0, 17, 4000])
    fluence = np.ones(engine.fluence_size)
    np.testing.assert_allclose(engine.restrict(rows).dose(fluence), engine.dose(fluence)[rows], rtol=1e-5)


def test_depth_dose_of_an_open_beam() -> None:
    """On the axis from the front: 10 and 20 cm below the maximum as pyRadPlan's 6 MV pencil beam, to 5 points."""
    water = np.zeros(GRID.shape, dtype=np.float32)
    water[:, 2:] = 1.0
    target = np.zeros(GRID.shape, dtype=bool)
    target[:, 10:30, 3:21] = True
    engine = DoseEngine(water, GRID, ISO, [0.0], target, water > 0)
    dose = np.zeros(GRID.shape)
    dose[water > 0] = engine.dose(np.ones(engine.fluence_size))
    axis = dose[5:7, :, 11:13].mean(axis=(0, 2))
    depth_cm = (GRID.centres_mm(1) - GRID.centres_mm(1)[2] + 3.0) / 10
    # Undo the inverse square, which a depth dose at fixed source distance does not have.
    flat = axis * ((1000 + GRID.centres_mm(1) - ISO[1]) / 1000) ** 2
    at = np.interp([10.0, 20.0], depth_cm, flat / flat.max())
    assert at[0] == pytest.approx(0.76, abs=0.05)
    assert at[1] == pytest.approx(0.55, abs=0.06)


@pytest.mark.parametrize(("gantry", "axis"), [(0.0, 1), (180.0, 1), (90.0, 2), (270.0, 2)])
def test_radiological_depth_counts_water_along_the_ray(gantry: float, axis: int) -> None:
    density = np.ones(GRID.shape, dtype=np.float32)
    depth = radiological_depth_cm(density, GRID, ISO, gantry)
    # Through the isocentre column the ray runs along the axis.
    line = depth[6, :, 12] if axis == 1 else depth[6, 20, :]
    expected = (np.arange(GRID.shape[axis]) + 0.5) * GRID.spacing_mm[axis] / 10
    if gantry in (180.0, 90.0):
        expected = expected[::-1]
    np.testing.assert_allclose(line, expected, atol=0.15)


def test_half_density_is_half_the_depth() -> None:
    water = _water()
    whole = radiological_depth_cm(water, GRID, ISO, 30.0)
    np.testing.assert_allclose(radiological_depth_cm(water / 2, GRID, ISO, 30.0), whole / 2, atol=1e-4)


def test_electron_density_of_air_water_and_outside() -> None:
    hu = np.array([[[-1000.0, 0.0, 0.0, 1000.0]]], dtype=np.float32)
    body = np.array([[[True, True, False, True]]])
    np.testing.assert_allclose(electron_density(hu, body)[0, 0], [0.0, 1.0, 0.0, 1.55])


def test_an_open_beam_falls_with_the_square_of_the_distance_where_nothing_attenuates() -> None:
    thin = np.full(GRID.shape, 1e-6, dtype=np.float32)
    target = np.zeros(GRID.shape, dtype=bool)
    target[2:10, 4:36, 4:20] = True
    engine = DoseEngine(thin, GRID, ISO, [0.0], target, thin > 0)
    axis = engine.dose(np.ones(engine.fluence_size)).reshape(GRID.shape)[5:7, :, 11:13].mean(axis=(0, 2))
    away_mm = 1000 + GRID.centres_mm(1) - ISO[1]
    np.testing.assert_allclose(axis / axis[20], (away_mm[20] / away_mm) ** 2, rtol=5e-3)


def test_the_penumbra_is_that_of_the_beam_and_the_voxel() -> None:
    """20 to 80 % at the isocentre's depth in a thin medium: 1.68 sigma of the blurs that the engine names."""
    fine = Grid((8, 12, 80), (6.0, 6.0, 2.0))
    iso = (21.0, 33.0, 79.0)
    thin = np.full(fine.shape, 1e-6, dtype=np.float32)
    target = np.zeros(fine.shape, dtype=bool)
    target[:, :, 20:60] = True
    engine = DoseEngine(thin, fine, iso, [0.0], target, thin > 0)
    across = engine.dose(np.ones(engine.fluence_size)).reshape(fine.shape)[4, 6]
    rising = across[: across.size // 2] / across[across.size // 2]
    x_mm = fine.centres_mm(2)[: rising.size]
    width = np.interp(0.8, rising, x_mm) - np.interp(0.2, rising, x_mm)
    primary = np.hypot(3.5, 2.0 / np.sqrt(12))
    assert 1.68 * primary < width < 1.68 * primary + 4  # the scatter's wide blur and pixels of 6 mm add to it
