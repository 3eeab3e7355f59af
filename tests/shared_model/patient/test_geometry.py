import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.core.errors import InputError
from shared_model.patient.geometry import Grid, Resampler, back_project, masked_average, roi_grid

FINE = Grid((16, 20, 24), (2.0, 1.5, 1.0), (-10.0, 5.0, 0.0))
sizes = st.integers(1, 12)
lengths = st.floats(0.5, 7.0)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4), (4, 4, 2.5)])
def test_bad_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="grid shape"):
        Grid(shape, (1.0, 1.0, 1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, float("nan"), 1.0), (-1.0, 1.0, 1.0)])
def test_bad_spacing_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="grid spacing"):
        Grid((4, 4, 4), spacing)


@settings(max_examples=60, deadline=None)
@given(st.tuples(sizes, sizes, sizes), st.tuples(lengths, lengths, lengths))
def test_average_keeps_the_integral_over_a_covering_grid(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    src = Grid(shape, spacing)
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    dst = Grid((3, 3, 3), (extent[0] / 2, extent[1] / 2, extent[2] / 2), tuple(-s / 2 for s in spacing))  # type: ignore[arg-type]
    volume = torch.rand(shape, dtype=torch.float64)
    moved = Resampler(src, dst).average(volume)
    assert float(moved.sum()) * dst.voxel_cc == pytest.approx(float(volume.sum()) * src.voxel_cc, rel=1e-5)


def test_average_of_whole_blocks_is_the_block_mean() -> None:
    src, dst = Grid((4, 6, 8), (1.0, 1.0, 1.0)), Grid((2, 3, 4), (2.0, 2.0, 2.0), (0.5, 0.5, 0.5))
    volume = torch.rand(4, 6, 8)
    expected = volume.reshape(2, 2, 3, 2, 4, 2).mean(dim=(1, 3, 5))
    torch.testing.assert_close(Resampler(src, dst).average(volume), expected)


def test_interpolate_is_exact_on_a_linear_ramp() -> None:
    dst = Grid((5, 7, 9), (3.0, 2.0, 1.5), (-8.0, 7.0, 2.0))

    def ramp(grid: Grid) -> torch.Tensor:
        z, y, x = (torch.from_numpy(grid.centres_mm(a)) for a in range(3))
        return 0.3 * z[:, None, None] - 0.2 * y[None, :, None] + 0.7 * x[None, None, :]

    torch.testing.assert_close(Resampler(FINE, dst).interpolate(ramp(FINE)), ramp(dst), atol=1e-5, rtol=0)


def test_outside_the_source_is_fill() -> None:
    away = Grid((2, 2, 2), (1.0, 1.0, 1.0), (500.0, 500.0, 500.0))
    volume = torch.ones(FINE.shape)
    assert Resampler(FINE, away).average(volume, fill=-1000.0).unique().tolist() == [-1000.0]
    assert Resampler(FINE, away).interpolate(volume).unique().tolist() == [0.0]


def test_roi_covers_the_mask_and_is_never_finer_than_the_source() -> None:
    mask = np.zeros(FINE.shape, dtype=bool)
    mask[2:14, 5:7, 0:24] = True
    roi = roi_grid(mask, FINE, (8, 8, 8))
    assert roi.spacing_mm == pytest.approx((3.0, 1.5, 3.0))
    inside = Resampler(FINE, roi).average(torch.from_numpy(mask).double())
    assert float(inside.sum()) * roi.voxel_cc == pytest.approx(mask.sum() * FINE.voxel_cc, rel=1e-5)


def test_empty_body_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        roi_grid(np.zeros(FINE.shape, dtype=bool), FINE, (8, 8, 8))


def test_back_projection_keeps_the_coarse_means() -> None:
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in FINE.shape], indexing="ij")
    body = z**2 + y**2 + x**2 < 0.9
    dose = torch.from_numpy(70 * np.exp(-4 * (z**2 + y**2 + x**2)) * body).float()
    mask = torch.from_numpy(body)
    coarse = roi_grid(body, FINE, (8, 8, 8))
    down = Resampler(FINE, coarse)
    means = masked_average(dose, mask, down)
    up = back_project(means, mask, FINE, coarse)
    plain = back_project(means, mask, FINE, coarse, iterations=0)
    assert float(up[~mask].abs().max()) == 0.0
    assert float((masked_average(up, mask, down) - means).abs().mean()) < 0.1
    assert float((up - dose).abs().mean()) < 0.6 * float((plain - dose).abs().mean())
