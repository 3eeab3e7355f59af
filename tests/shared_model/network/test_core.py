"""Rotary phases of the coarse level: where a token lies in millimetres is all that counts, whatever the voxel."""

import pytest
import torch
from torch import Tensor

from shared_model.network.core import MM_PER_RADIAN, phases

CPU = torch.device("cpu")
HEAD_DIM = 48


def on(grid: tuple[int, int, int], cell_mm: tuple[float, float, float], slots: tuple[int, ...] = (2,)) -> Tensor:
    """(S, z, y, x, 2, HEAD_DIM / 2): cosines and sines."""
    both = torch.stack(phases(slots, grid, cell_mm, HEAD_DIM, CPU), dim=-2)
    return both.reshape(len(slots), *grid, 2, HEAD_DIM // 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_same_millimetres_have_the_same_phases_whatever_the_spacing(axis: int) -> None:
    """Five cells of 40 mm and three of 80 mm share their positions -80, 0 and 80 mm along each axis."""
    fine_grid, fine_mm = [3, 3, 3], [64.0, 64.0, 64.0]
    coarse_grid, coarse_mm = list(fine_grid), list(fine_mm)
    fine_grid[axis], fine_mm[axis] = 5, 40.0
    coarse_grid[axis], coarse_mm[axis] = 3, 80.0
    fine = on((fine_grid[0], fine_grid[1], fine_grid[2]), (fine_mm[0], fine_mm[1], fine_mm[2]))
    coarse = on((coarse_grid[0], coarse_grid[1], coarse_grid[2]), (coarse_mm[0], coarse_mm[1], coarse_mm[2]))
    shared = fine.index_select(1 + axis, torch.tensor([0, 2, 4]))
    torch.testing.assert_close(shared, coarse, atol=1e-5, rtol=0)
    between, end = fine.index_select(1 + axis, torch.tensor([1])), coarse.index_select(1 + axis, torch.tensor([0]))
    assert not torch.allclose(between, end, atol=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_another_spacing_gives_other_phases_and_the_middle_stays(axis: int) -> None:
    usual = (40.0, 64.0, 64.0)
    wider = tuple(mm * (1.25 if k == axis else 1.0) for k, mm in enumerate(usual))
    here, there = on((3, 3, 3), usual), on((3, 3, 3), (wider[0], wider[1], wider[2]))
    middle = torch.tensor([1])
    torch.testing.assert_close(here.index_select(1 + axis, middle), there.index_select(1 + axis, middle))
    ends = torch.tensor([0, 2])
    apart = (here.index_select(1 + axis, ends) - there.index_select(1 + axis, ends)).abs()
    assert bool((apart.flatten(1, 3).amax((1, 2, 3)) > 0.1).all())


def test_the_fastest_pair_turns_by_a_radian_each_so_many_millimetres() -> None:
    cos, _ = phases([0], (1, 1, 2), (1.0, 1.0, MM_PER_RADIAN), HEAD_DIM, CPU)
    fastest_along_x = HEAD_DIM // 2 - HEAD_DIM // 6
    assert float(cos[0, 0, fastest_along_x]) == pytest.approx(torch.tensor(0.5).cos().item())


def test_a_slot_turns_every_place_alike() -> None:
    """The fourth dimension: between two slots the same turn at each place, and none of the fast pairs."""
    one, other = (torch.complex(*on((2, 3, 2), (40.0, 64.0, 64.0), (slot,)).unbind(-2)) for slot in (1, 3))
    turn = other / one
    torch.testing.assert_close(turn, turn[:, :1, :1, :1].expand_as(turn), atol=1e-5, rtol=0)
    assert float((turn[0, 0, 0, 0] - 1).abs().max()) > 0.1
    assert float((turn[0, 0, 0, 0, 0] - 1).abs()) < 1e-6
