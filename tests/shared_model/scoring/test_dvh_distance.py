"""The distance of two DVHs, against the area between them from an independent library."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from shared_model.scoring.dvh_distance import END_SHARE, END_WEIGHT, dvh_distance


@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=60), st.integers(0, 2**31))
def test_it_is_the_area_between_dvhs_and_their_ends(doses: list[float], seed: int) -> None:
    measured = torch.tensor(doses, dtype=torch.float64)
    predicted = torch.rand(len(doses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    end = max(1, len(doses) // END_SHARE)
    apart = np.abs(np.sort(predicted.numpy()) - np.sort(measured.numpy()))
    ends = apart[:end].mean() + apart[-end:].mean()
    area = wasserstein_distance(predicted.numpy(), measured.numpy())
    assert dvh_distance(predicted, measured).item() == pytest.approx(area + END_WEIGHT * ends)
    order = torch.randperm(len(doses), generator=torch.Generator().manual_seed(seed))
    assert dvh_distance(measured[order], measured).item() == 0, "which voxel has which dose does not matter"
