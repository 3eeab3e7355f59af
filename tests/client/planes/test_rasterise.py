"""Contours to masks: against areas that are known, and a slow test of every point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from client.planes.rasterise import Contours, crossings, mask_of
from shared_model.core.errors import InputError

HEIGHTS = np.arange(10) * 3.0
SHAPE = (40, 44)


def _contours(polygons: list[tuple[float, NDArray[np.float64]]]) -> Contours:
    """From (height, points (row, column)) of each contour."""
    points = np.concatenate([p for _, p in polygons])
    return Contours(
        height_mm=np.array([h for h, _ in polygons]),
        row=points[:, 0],
        column=points[:, 1],
        counts=np.array([len(p) for _, p in polygons]),
    )


def _circle(row: float, column: float, radius: float, points: int = 120) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([row + radius * np.sin(angle), column + radius * np.cos(angle)], axis=1)


def _slow(polygons: list[NDArray[np.float64]], finer: int = 16) -> NDArray[np.float64]:
    """Covered share of every voxel from finer^2 points, even-odd over all polygons."""
    at = (np.arange(SHAPE[0] * finer) + 0.5) / finer - 0.5, (np.arange(SHAPE[1] * finer) + 0.5) / finer - 0.5
    points = np.stack(np.meshgrid(*at, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.zeros(len(points), dtype=int)
    for polygon in polygons:
        inside += Outline(np.concatenate([polygon, polygon[:1]]), closed=True).contains_points(points)
    return (inside % 2).reshape(SHAPE[0], finer, SHAPE[1], finer).mean(axis=(1, 3))


@pytest.mark.parametrize(
    "polygons",
    [
        [_circle(18.3, 20.1, 9.7)],
        [_circle(18.3, 20.1, 9.7), _circle(18.3, 20.1, 4.2)],  # a hole, as a contour of its own
        [_circle(10, 10, 5.3), _circle(28, 30, 7.7)],  # two parts
        [np.array([[2.2, 3.1], [35.7, 8.8], [20.4, 39.9]])],
        [np.array([[-20.0, -20.0], [80.0, 10.0], [15.0, 90.0]])],  # far outside the grid
    ],
)
def test_against_every_point(polygons: list[NDArray[np.float64]]) -> None:
    mask = mask_of(_contours([(12.0, p) for p in polygons]), HEIGHTS, SHAPE, 3.0)
    share = _slow(polygons)
    assert mask.any(axis=(1, 2)).nonzero()[0].tolist() == [4]
    sure = np.abs(share - 0.5) > 0.05
    assert np.array_equal(mask[4][sure], (share >= 0.5)[sure])


@given(st.lists(st.tuples(st.floats(0, 39), st.floats(0, 43)), min_size=3, max_size=9))
def test_any_polygon_also_one_that_crosses_itself(corners: list[tuple[float, float]]) -> None:
    polygon = np.array(corners)
    mask = mask_of(_contours([(12.0, polygon)]), HEIGHTS, SHAPE, 3.0)
    share = _slow([polygon], finer=8)
    # Thin slivers fall between the lines of both; what is clearly in or out must agree.
    assert mask[4][share > 0.8].all()
    assert not mask[4][share < 0.2].any() or mask.sum() == 1


def test_a_keyhole_is_a_ring() -> None:
    outer, inner = _circle(18, 20, 12), _circle(18, 20, 6)[::-1]
    inner = np.roll(inner, 1, axis=0)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    ring = mask_of(_contours([(12.0, keyhole)]), HEIGHTS, SHAPE, 3.0)
    assert ring.sum() == pytest.approx(np.pi * (144 - 36), rel=0.02)
    assert not ring[4, 18, 20]


def test_every_second_slice_is_filled_and_a_wide_gap_is_not() -> None:
    spaced = _contours([(h, _circle(18, 20, 9)) for h in (6.0, 12.0, 18.0)])
    assert mask_of(spaced, HEIGHTS, SHAPE, 3.0).any(axis=(1, 2)).nonzero()[0].tolist() == [2, 3, 4, 5, 6]
    parted = _contours([(h, _circle(18, 20, 9)) for h in (0.0, 3.0, 18.0, 21.0)])
    assert mask_of(parted, HEIGHTS, SHAPE, 3.0).any(axis=(1, 2)).nonzero()[0].tolist() == [0, 1, 6, 7]


def test_between_two_planes_a_shape_changes_gradually() -> None:
    cone = mask_of(_contours([(6.0, _circle(18, 20, 4)), (12.0, _circle(18, 20, 10))]), HEIGHTS, SHAPE, 3.0)
    areas = cone.sum(axis=(1, 2))
    assert areas[3] == pytest.approx(np.pi * 49, rel=0.1)  # half way from 4 to 10


def test_contours_between_slices_belong_to_both_by_their_share() -> None:
    """Planes half way between slices of equal spacing: the volume stays."""
    drawn = _contours([(h + 1.2, _circle(18, 20, 8)) for h in HEIGHTS[2:7]])
    mask = mask_of(drawn, HEIGHTS, SHAPE, 3.0)
    assert mask.any(axis=(1, 2)).sum() == 5


def test_fine_contours_on_a_coarse_grid_keep_their_volume() -> None:
    """A ball drawn every millimetre, on slices of 4 mm."""
    z = np.arange(-20, 21.0)
    ball = [(h, _circle(20, 20, float(np.sqrt(400 - h * h)))) for h in z if abs(h) < 20]
    heights = np.arange(-24, 25, 4.0)
    mask = mask_of(_contours(ball), heights, (41, 41), 1.0)
    assert mask.sum() * 4 == pytest.approx(4 / 3 * np.pi * 8000, rel=0.02)


def test_a_sliver_keeps_one_voxel_and_nothing_stays_nothing() -> None:
    sliver = np.array([[10.1, 10.1], [10.1, 10.3], [10.3, 10.2]])
    assert np.argwhere(mask_of(_contours([(12.0, sliver)]), HEIGHTS, SHAPE, 3.0)).tolist() == [[4, 10, 10]]
    outside = _contours([(12.0, _circle(300, 300, 5))])
    assert not mask_of(outside, HEIGHTS, SHAPE, 3.0).any()
    assert not mask_of(_contours([(500.0, _circle(18, 20, 5))]), HEIGHTS, SHAPE, 3.0).any()


def test_what_filling_costs_is_known_before() -> None:
    """A square from row 10 to row 20 crosses four lines a row on both sides; what lies outside counts for nothing."""
    square = np.array([[10.0, 5.0], [20.0, 5.0], [20.0, 9.0], [10.0, 9.0]])
    assert crossings(_contours([(0.0, square), (3.0, square)]), 40) == 2 * 2 * 10 * 4
    assert crossings(_contours([(0.0, square + np.array([1000.0, 0.0]))]), 40) == 0


@pytest.mark.parametrize("heights", [np.arange(6000) * 0.1, np.array([-1e5, 1e5])], ids=["planes", "a gap"])
def test_more_planes_than_a_ct_has_are_refused(heights: np.ndarray) -> None:
    drawn = _contours([(float(height), _circle(18, 20, 5)) for height in heights])
    with pytest.raises(InputError, match="planes"):
        mask_of(drawn, HEIGHTS, SHAPE, 3.0)


def test_many_planes_are_filled_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _contours([(float(k) * 3, _circle(18, 20, 4 + k % 7)) for k in range(9)])
    whole = mask_of(drawn, HEIGHTS, SHAPE, 3.0)
    monkeypatch.setattr("client.planes.rasterise._AT_ONCE", 1)
    assert whole.any()
    np.testing.assert_array_equal(mask_of(drawn, HEIGHTS, SHAPE, 3.0), whole)
