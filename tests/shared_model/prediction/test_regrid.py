"""Coarser voxels keep where things are and how large; a dose that goes down and back stays what it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid, Resampler, masked_average
from shared_model.prediction.regrid import coarsen, refine, starts


def case(shape: tuple[int, int, int] = (12, 21, 20)) -> Case:
    grid = Grid(shape, (2.5, 3.0, 3.0), (-100.0, 7.0, 33.0))
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = z**2 * 0.2 + y**2 + x**2 <= 0.9
    target = (z**2 + y**2 + x**2) <= 0.2
    small = np.zeros(shape, dtype=bool)
    small[1, 3, 10] = True
    return Case(
        case_id="a", grid=grid, body=body, structures={"PTV_7000": target, "SpinalCord": small},
        prescriptions_gy={"PTV_7000": 70.0}, ct_hu=np.where(body, 20.0, -1000.0).astype(np.float32),
        dose_gy=np.where(body, 60 * np.exp(-(z**2) - y**2 - x**2), 0.0).astype(np.float32),
    )  # fmt: skip


@settings(max_examples=20)
@given(factors=st.tuples(*[st.integers(1, 4)] * 3), which=st.integers(0, 1))
def test_positions_volumes_and_dose_are_kept(factors: tuple[int, int, int], which: int) -> None:
    fine = case()
    coarse = coarsen(fine, factors, starts(factors)[min(which, len(starts(factors)) - 1)])
    for name in ("PTV_7000", "body"):
        masks = [c.body if name == "body" else c.structures[name] for c in (fine, coarse)]
        middles = [c.grid.position_mm(np.argwhere(m).mean(axis=0)) for c, m in zip((fine, coarse), masks, strict=True)]
        np.testing.assert_allclose(middles[0], middles[1], atol=0.5 * max(coarse.grid.spacing_mm))
    assert coarse.structures["SpinalCord"].any()  # a small organ does not vanish
    assert coarse.dose_gy is not None
    assert fine.dose_gy is not None
    if factors != (1, 1, 1):
        wanted = masked_average(
            torch.from_numpy(fine.dose_gy), torch.from_numpy(fine.body), Resampler(fine.grid, coarse.grid)
        )
        np.testing.assert_allclose(coarse.dose_gy, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("start", starts((2, 2, 2)))
def test_a_smooth_dose_comes_back(start: tuple[int, int, int]) -> None:
    fine = case()
    coarse = coarsen(fine, (2, 2, 2), start)
    assert coarse.dose_gy is not None
    assert fine.dose_gy is not None
    back = refine(torch.from_numpy(coarse.dose_gy), coarse, fine).numpy()
    assert np.abs(back - fine.dose_gy)[fine.body].mean() < 0.5
    assert (back[~fine.body] == 0).all()


def test_nothing_changes_at_the_same_size() -> None:
    fine = case()
    assert coarsen(fine, (1, 1, 1)) is fine
    dose = torch.rand(fine.grid.shape)
    assert refine(dose, fine, fine) is dose


def test_blocks_that_do_not_fit_reach_beyond_the_volume() -> None:
    coarse = coarsen(case((13, 21, 20)), (4, 2, 3))
    assert coarse.grid.shape == (4, 11, 7)
    assert coarse.grid.origin_mm == pytest.approx((-100 + 1.5 * 2.5, 7 + 0.5 * 3, 33 + 3))


def test_the_second_grid_lies_half_a_merged_voxel_before_the_first_and_covers_the_whole_case() -> None:
    assert starts((1, 1, 1)) == ((0, 0, 0),)
    assert starts((1, 2, 3)) == ((0, 0, 0), (0, 1, 1))
    fine = case()
    first, second = (coarsen(fine, (2, 2, 2), start) for start in starts((2, 2, 2)))
    moved = [(a - b) / s for a, b, s in zip(
        first.grid.origin_mm, second.grid.origin_mm, first.grid.spacing_mm, strict=True
    )]  # fmt: skip
    assert moved == pytest.approx([0.5, 0.5, 0.5])
    assert second.grid.shape == (7, 11, 11)
    # Whole voxels of the case lie outside of the second grid's first block, and none of the case is left out.
    to = Resampler(fine.grid, second.grid)
    volume = torch.ones(fine.grid.shape)
    assert float(to.average(volume).sum()) * 8 == pytest.approx(volume.numel(), rel=1e-5)
