"""DVH metrics of random shapes and doses, against an independent implementation.

The independent one knows nothing of grids: it tests points a third of a millimetre apart against the polygons (even-odd
winding by matplotlib), takes each plane as far as half way to its neighbours, and evaluates the dose's formula there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from client.names.records import Roi
from client.planes.lattice import Lattice
from client.planes.masks import Rasteriser
from client.planes.plane import ImagePlane
from shared_model.patient.geometry import Grid

PIXEL_MM, SLICE_MM, EDGE = 2.0, 3.0, 64


@dataclass(frozen=True)
class Made:
    """Contours on planes, and a dose that is linear along one direction plus a bump."""

    contours: list[np.ndarray]
    slope: np.ndarray
    bump: np.ndarray

    def gy(self, points: np.ndarray) -> np.ndarray:
        """Dose at points (..., 3) as x, y, z."""
        squares = ((points - self.bump) ** 2).sum(axis=-1)
        return np.asarray(25.0 + points @ self.slope + 30.0 * np.exp(-squares / (2 * 25.0**2)))


def made(seed: int) -> Made:
    """A lobed tube of some planes, with a hole in half of the cases, and in a third of them a second part."""
    random = np.random.default_rng(seed)
    planes = random.integers(5, 15)
    start = random.integers(2, 24 - planes)
    contours = []
    centre = random.uniform(-15, 15, 2)
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    lobes, phase, depth = random.integers(2, 6), random.uniform(0, 6), random.uniform(0, 0.25)
    radius = random.uniform(14, 30)
    with_hole, with_part = random.random() < 0.5, random.random() < 0.33
    for k in range(planes):
        z = (start + k) * SLICE_MM
        r = radius * (1 + depth * np.cos(lobes * turn + phase)) * (1 - 0.3 * abs(k - planes / 2) / planes)
        x, y = centre[0] + r * np.cos(turn), centre[1] + r * np.sin(turn)
        contours.append(np.stack([x, y, np.full_like(x, z)], axis=1))
        if with_hole:
            h = 0.35 * r.min()
            hole = [centre[0] + h * np.cos(turn), centre[1] + h * np.sin(turn), np.full_like(x, z)]
            contours.append(np.stack(hole, axis=1))
        if with_part:
            far = [centre[0] + r.max() + 14 + 8 * np.cos(turn), centre[1] + 8 * np.sin(turn), np.full_like(x, z)]
            contours.append(np.stack(far, axis=1))
    return Made(contours, random.uniform(-0.15, 0.15, 3), np.array([*random.uniform(-20, 20, 2), 36.0]))


def ours(shape: Made) -> tuple[np.ndarray, float]:
    """Doses in the structure's voxels, and a voxel's volume in cc."""
    low = -EDGE * PIXEL_MM / 2
    plane = ImagePlane(
        position=(low, low, 0.0),
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, 1.0, 0.0),
        spacing=(PIXEL_MM, PIXEL_MM),
        rows=EDGE,
        columns=EDGE,
    )
    origins = np.array([[k * SLICE_MM, low, low] for k in range(26)])
    grid = Grid((26, EDGE, EDGE), (SLICE_MM, PIXEL_MM, PIXEL_MM), (0.0, low, low))
    counts = np.array([len(c) for c in shape.contours])
    roi = Roi(number=1, name="x", kind="", points_mm=np.concatenate(shape.contours), counts=counts)
    mask, _ = Rasteriser(Lattice.of_planes(plane, origins), grid).mask(roi)
    z, y, x = np.meshgrid(*(grid.centres_mm(axis) for axis in range(3)), indexing="ij")
    return shape.gy(np.stack([x, y, z], axis=-1)[mask]), grid.voxel_cc


def independent(shape: Made, step: float = 0.4) -> np.ndarray:
    """Doses at dense points of the structure."""
    found = []
    for z in sorted({float(c[0, 2]) for c in shape.contours}):
        of = [c[:, :2] for c in shape.contours if c[0, 2] == z]
        low, high = np.min([c.min(axis=0) for c in of], axis=0), np.max([c.max(axis=0) for c in of], axis=0)
        x, y = np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step), indexing="ij")
        flat = np.stack([x.ravel(), y.ravel()], axis=1)
        inside = np.zeros(len(flat), dtype=bool)
        for polygon in of:
            inside ^= Outline(polygon).contains_points(flat)
        for depth in np.linspace(-SLICE_MM / 2, SLICE_MM / 2, 6, endpoint=False) + SLICE_MM / 12:
            points = np.concatenate([flat[inside], np.full((int(inside.sum()), 1), z + depth)], axis=1)
            found.append(shape.gy(points))
    return np.concatenate(found)


def compare(seed: int) -> None:
    shape = made(seed)
    mine, voxel_cc = ours(shape)
    other = independent(shape)
    for percent in (5, 50):  # D95 and D50
        wanted = float(np.percentile(other, percent))
        # A hundredth, or the dose of one voxel's step across the steepest slope.
        across = float(np.abs(shape.slope).max() + 30.0 / 25.0 * 0.61) * PIXEL_MM / 2
        assert abs(float(np.percentile(mine, percent)) - wanted) <= max(0.01 * wanted, across)
    assert float(mine.mean()) == pytest.approx(float(other.mean()), rel=0.01)
    assert abs(100 * (mine >= 20).mean() - 100 * (other >= 20).mean()) <= 1.0
    volume = len(other) * 0.4**2 * (SLICE_MM / 6) / 1000
    assert len(mine) * voxel_cc == pytest.approx(volume, rel=0.03)


@pytest.mark.parametrize("seed", range(50))
def test_fifty_random_shapes(seed: int) -> None:
    compare(seed)


@settings(max_examples=15, deadline=None)
@given(st.integers(1000, 2**31))
def test_any_shape(seed: int) -> None:
    compare(seed)
