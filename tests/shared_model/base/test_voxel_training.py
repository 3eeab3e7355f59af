"""Training rows of the voxel base, batches of them, and the loss on voxels and DVHs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from shared_model.base import voxel_network, voxel_training
from shared_model.base.interface import TrainingRows
from shared_model.base.voxel_training import draw, dvh_distance, training_rows, voxel_loss
from shared_model.channels.features import highest_gy
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from simulations.phantom.hospitals import STYLES, phantom_case


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (24, 24, 24))


@pytest.fixture(scope="module")
def rows(case: Case) -> TrainingRows:
    found = training_rows(case, voxel_network.voxel_features(case))
    assert found is not None
    return found


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_rows_hold_the_doses_of_body_and_structures(case: Case, rows: TrainingRows) -> None:
    assert case.dose_gy is not None
    body, *structures = rows.parts
    assert len(body) == min(voxel_training.VOXELS_OF_BODY, case.body.sum())
    high = case.structures[case.targets[0]]
    doses = rows.ratio[structures[0]] * highest_gy(case)
    assert len(doses) == min(voxel_training.VOXELS_OF_STRUCTURE, high.sum())
    np.testing.assert_allclose(np.sort(doses), np.sort(case.dose_gy[high])[: len(doses)], rtol=1e-5)


def test_a_case_without_targets_has_no_rows_and_one_without_dose_is_refused(case: Case) -> None:
    bare = replace(case, structures={}, prescriptions_gy={})
    assert training_rows(bare, voxel_network.voxel_features(bare)) is None
    with pytest.raises(InputError, match="no dose"):
        training_rows(replace(case, dose_gy=None), voxel_network.voxel_features(case))


def test_a_batch_is_drawn_by_its_generator_alone(rows: TrainingRows) -> None:
    one, again = (draw([rows, rows], generator()) for _ in range(2))
    assert torch.equal(one.features, again.features)
    assert sum(one.lengths) == len(one.ratio) == len(one.features)
    assert one.of_structure.count(False) == 2
    body = [n for n, inside in zip(one.lengths, one.of_structure, strict=True) if not inside]
    assert body == [voxel_training.BODY_STEP] * 2


@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=60), st.integers(0, 2**31))
def test_dvh_distance_is_the_area_between_dvhs_and_their_ends(doses: list[float], seed: int) -> None:
    measured = torch.tensor(doses, dtype=torch.float64)
    predicted = torch.rand(len(doses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    end = max(1, len(doses) // voxel_training.END_SHARE)
    apart = np.abs(np.sort(predicted.numpy()) - np.sort(measured.numpy()))
    ends = apart[:end].mean() + apart[-end:].mean()
    area = wasserstein_distance(predicted.numpy(), measured.numpy())
    assert dvh_distance(predicted, measured).item() == pytest.approx(area + voxel_training.END_WEIGHT * ends)
    order = torch.randperm(len(doses), generator=torch.Generator().manual_seed(seed))
    assert dvh_distance(measured[order], measured).item() == 0, "which voxel has which dose does not matter"


def test_it_learns_the_dose_and_the_histograms_of_a_patient(case: Case, rows: TrainingRows) -> None:
    torch.manual_seed(0)
    network, source = voxel_network.VoxelNetwork(), generator()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = voxel_loss(network, draw([rows], source))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert case.dose_gy is not None
    base = voxel_network.predict(case, voxel_network.voxel_features(case), network)
    assert np.abs(base - case.dose_gy)[case.body].mean() / highest_gy(case) < 0.3 * losses[0]
    assert base[~case.body].max() == 0
