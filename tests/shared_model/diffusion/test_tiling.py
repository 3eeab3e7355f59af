from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_model.diffusion.tiling import blend, starts, tiles


# A busy machine may take long over one example; that is no fault of the code.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 19))
def test_windows_cover_the_axis_and_overlap(size: int, window: int, overlap: int) -> None:
    if size > window and overlap >= window:
        with pytest.raises(ValueError, match="overlap"):
            starts(size, window, overlap)
        return
    first = starts(size, window, overlap)
    assert first[0] == 0
    assert len(first) == 1 or first[-1] + window == size
    for a, b in pairwise(first):
        assert a < b <= a + window - overlap


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(*[st.integers(3, 12)] * 3), st.integers(3, 6), st.integers(0, 2))
def test_blending_the_tiles_of_a_field_gives_the_field(shape: tuple[int, int, int], side: int, overlap: int) -> None:
    """Weights sum to one: a constant stays constant and any field that tiles agree on comes back whole."""
    field = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    parts = tiles(shape, (side, side, side), overlap)
    torch.testing.assert_close(blend(lambda _, part: field[(..., *part)], shape, parts, overlap), field)
    ones = blend(lambda _, part: torch.ones(1, 1, *shape)[(..., *part)] * 7, shape, parts, overlap)
    torch.testing.assert_close(ones, torch.full((1, 1, *shape), 7.0))


def test_the_border_between_disagreeing_tiles_is_a_ramp() -> None:
    parts = tiles((1, 1, 12), (1, 1, 8), 4)
    line = blend(lambda n, part: torch.full((1, 1, 8), float(n)), (1, 1, 12), parts, 4)[0, 0]
    assert line[:4].tolist() == [0.0] * 4
    assert line[8:].tolist() == [1.0] * 4
    torch.testing.assert_close(line[4:8], torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_one_tile_is_the_field_itself() -> None:
    field = torch.randn(1, 4, 4, 4)
    parts = tiles((4, 4, 4), (8, 4, 4), 2)
    assert len(parts) == 1
    assert torch.equal(blend(lambda _, part: field[(..., *part)], (4, 4, 4), parts, 2), field)
