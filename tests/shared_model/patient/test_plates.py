"""Beam and angle plates against a slow ray-by-ray oracle, known geometry, and the promise of being quick."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.core.errors import InputError
from shared_model.patient.geometry import Grid
from shared_model.patient.plates import SOURCE_DISTANCE_MM, angle_plate, beam_plate, target_centroid_mm

NINE = [40.0 * index for index in range(9)]
GRID = Grid((24, 26, 28), (6.0, 5.0, 4.0), (-70.0, -60.0, -50.0))
ISO = (2.0, 5.0, 4.0)


def _ball(grid: Grid, centre: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = (grid.centres_mm(axis) - centre[axis] for axis in range(3))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


def _ray_oracle(centre: tuple[float, float, float], radius_mm: float, gantry: float) -> tuple[np.ndarray, np.ndarray]:
    """Each voxel's ray (source through voxel): its distance from the ball at the isocentre plane, its 1/r2 weight."""
    angle = np.deg2rad(gantry)
    source = np.array(ISO) + SOURCE_DISTANCE_MM * np.array([0.0, -np.cos(angle), np.sin(angle)])
    points = np.stack(np.meshgrid(*(GRID.centres_mm(axis) for axis in range(3)), indexing="ij"), axis=-1)
    ray = points - source
    length = np.linalg.norm(ray, axis=-1)
    to_ball = np.array(centre) - source
    miss = np.linalg.norm(np.cross(ray, to_ball), axis=-1) / length
    magnified = SOURCE_DISTANCE_MM / np.linalg.norm(to_ball)
    return (miss - radius_mm) * magnified, (SOURCE_DISTANCE_MM / length) ** 2


@pytest.mark.parametrize("gantry", [0.0, 40.0, 90.0, 200.0, 333.0])
@pytest.mark.parametrize("centre", [ISO, (20.0, -15.0, 20.0)])
def test_one_beam_is_the_divergent_shadow_of_a_ball(gantry: float, centre: tuple[float, float, float]) -> None:
    plate = beam_plate(_ball(GRID, centre, 22.0), GRID, ISO, [gantry], margin_mm=0.0)
    outside_mm, weight = _ray_oracle(centre, 22.0, gantry)
    # Voxels are up to 6 mm wide and the edge has a sigma of 3 mm: judge clear of the edge.
    inside, beyond = outside_mm < -9.0, outside_mm > 14.0
    assert inside.sum() > 200
    assert beyond.sum() > 2000
    np.testing.assert_allclose(plate[inside], weight[inside], rtol=0.03)
    assert plate[beyond].max() < 0.01


def test_gantry_zero_enters_from_the_front_and_ninety_from_the_left() -> None:
    target = _ball(GRID, ISO, 15.0)
    bar = angle_plate(GRID, ISO, [0.0])
    z, y, x = (round((ISO[axis] - GRID.origin_mm[axis]) / GRID.spacing_mm[axis]) for axis in range(3))
    assert bar[z, :y, x].max() == pytest.approx(1.0)
    assert bar[z, y + 2 :, x].max() == 0
    bar = angle_plate(GRID, ISO, [90.0])
    assert bar[z, y, x + 2 :].max() == pytest.approx(1.0)
    assert bar[z, y, : x - 1].max() == 0
    # Nearer to the source the inverse square is larger.
    plate = beam_plate(target, GRID, ISO, [0.0])
    assert plate[z, 0, x] > plate[z, y, x] > plate[z, -1, x] > 0.5


def test_a_plate_is_the_mean_of_its_beams() -> None:
    target = _ball(GRID, (10.0, 0.0, 10.0), 18.0)
    single = [beam_plate(target, GRID, ISO, [angle]) for angle in NINE]
    np.testing.assert_allclose(beam_plate(target, GRID, ISO, NINE), np.mean(single, axis=0), atol=1e-6)


def test_weights_scale_the_shadow_and_the_greater_wins() -> None:
    low, high = _ball(GRID, (2.0, -25.0, 4.0), 10.0), _ball(GRID, (2.0, 35.0, 4.0), 10.0)
    weights = np.maximum(low * np.float32(0.5), high * np.float32(1.0))
    # Both lie on the axis of gantry 0, where the greater counts; from the side they are apart.
    front = [beam_plate(target, GRID, ISO, [0.0])[12, :, 13:15] for target in (weights, low | high)]
    np.testing.assert_allclose(front[0], front[1], rtol=0.03)
    side = beam_plate(weights, GRID, ISO, [90.0])
    assert side[low].mean() == pytest.approx(0.5 * beam_plate(low, GRID, ISO, [90.0])[low].mean(), rel=0.02)
    assert side[high].mean() == pytest.approx(beam_plate(high, GRID, ISO, [90.0])[high].mean(), rel=0.02)


@settings(max_examples=15, deadline=None)
@given(st.floats(3.0, 14.0), st.floats(3.0, 14.0), st.floats(3.0, 14.0), st.floats(0.0, 360.0))
def test_no_holes_on_coarse_grids(dz: float, dy: float, dx: float, gantry: float) -> None:
    """Every voxel of a solid target lies in its own shadow, whatever the spacing and the angle."""
    grid = Grid((16, 16, 16), (dz, dy, dx))
    centre = (7.5 * dz, 7.5 * dy, 7.5 * dx)
    target = np.zeros(grid.shape, dtype=bool)
    target[3:13, 4:12, 4:12] = True
    inner = np.zeros_like(target)
    inner[5:11, 6:10, 6:10] = True
    plate = beam_plate(target, grid, centre, [gantry])
    assert plate[inner].min() > 0.8
    assert plate[target].min() > 0.4


def test_plates_do_not_depend_on_the_origin_or_on_resolution() -> None:
    coarse = Grid((16, 16, 16), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    fine = Grid((32, 32, 32), (4.0, 4.0, 4.0), (-2.0, -2.0, -2.0))
    centre = (60.0, 60.0, 60.0)
    box = np.zeros(coarse.shape, dtype=bool)
    box[4:12, 5:11, 6:12] = True
    plates = [
        beam_plate(box, coarse, centre, NINE),
        beam_plate(box.repeat(2, 0).repeat(2, 1).repeat(2, 2), fine, centre, NINE),
    ]
    block = plates[1].reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    assert np.abs(block - plates[0]).mean() < 0.015
    assert np.corrcoef(block.ravel(), plates[0].ravel())[0, 1] > 0.99
    bars = [angle_plate(grid, centre, NINE) for grid in (coarse, fine)]
    volume = [float(bar.sum()) * grid.voxel_cc for bar, grid in zip(bars, (coarse, fine), strict=True)]
    assert volume[0] == pytest.approx(volume[1], rel=0.15)


def test_nine_beams_are_quick() -> None:
    grid = Grid((64, 64, 64), (5.0, 8.0, 8.0))
    centre = (160.0, 256.0, 256.0)
    target = _ball(grid, centre, 70.0)
    best = min(_seconds(lambda: beam_plate(target, grid, centre, NINE)) for _ in range(3))
    assert best < 0.15


def _seconds(call: object) -> float:
    start = time.process_time()
    call()  # type: ignore[operator]
    return time.process_time() - start


def test_bad_input() -> None:
    target = _ball(GRID, ISO, 15.0)
    with pytest.raises(InputError, match="shape"):
        beam_plate(target[1:], GRID, ISO, NINE)
    with pytest.raises(InputError, match="at least one"):
        beam_plate(target, GRID, ISO, [])
    with pytest.raises(InputError, match="finite"):
        angle_plate(GRID, ISO, [float("nan")])
    with pytest.raises(InputError, match="empty"):
        target_centroid_mm(target & False, GRID)
    assert beam_plate(target & False, GRID, ISO, NINE).max() == 0
    assert target_centroid_mm(target, GRID) == pytest.approx(ISO, abs=0.5)
