"""The voxel baseline: its features of a voxel's surroundings, its training rows, its loss, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_model.channels.features import highest_gy
from shared_model.core.errors import InputError
from shared_model.diffusion.modalities import mirror
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.scoring.dvh_distance import dvh_distance
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.studies import voxel
from simulations.studies.voxel import FAR_MM, SURROUNDINGS, loss_of, surroundings, train_voxel, training_rows


def volumes(case: Case) -> dict[str, np.ndarray]:
    found = np.zeros((*case.grid.shape, len(SURROUNDINGS)), np.float32)
    found[case.body] = surroundings(case)
    return dict(zip(SURROUNDINGS, np.moveaxis(found, -1, 0), strict=True))


@pytest.fixture(scope="module")
def block() -> Case:
    """A body of 4 x 6 x 8 voxels of 5 x 3 x 2 mm, one voxel of larynx, an empty first slice."""
    body = np.ones((5, 6, 8), dtype=bool)
    body[0] = False
    larynx = np.zeros_like(body)
    larynx[2, 3, 4] = True
    grid = Grid(body.shape, (5.0, 3.0, 2.0), (0.0, 0.0, 0.0))
    return Case(case_id="block", grid=grid, body=body, structures={"Larynx": larynx}, prescriptions_gy={})


def test_distances_and_places_are_in_mm(block: Case) -> None:
    found = volumes(block)
    assert found["larynx_mm"][2, 3, 7] == pytest.approx(6.0)
    assert found["larynx_mm"][4, 3, 4] == pytest.approx(10.0)
    assert found["larynx_mm"][2, 3, 4] < 0
    for absent in ("mandible_mm", "esophagus_mm"):
        assert (found[absent][block.body] == FAR_MM).all()
    np.testing.assert_allclose(found["from_middle_mm"][1, :, 0], (np.arange(6) - 2.5) * 3.0)
    np.testing.assert_allclose(found["aside_mm"][1, 0], np.abs(np.arange(8) - 3.5) * 2.0)
    assert (found["width_mm"][block.body] == 14.0).all()


def test_a_mirrored_case_has_the_mirrored_surroundings() -> None:
    case = phantom_case(3, STYLES["openkbp_like"], (24, 24, 24))
    for name, volume in volumes(mirror(case)).items():
        np.testing.assert_allclose(volume[:, :, ::-1], volumes(case)[name], atol=1e-3, err_msg=name)


def test_each_slice_has_its_own_middle(block: Case) -> None:
    body = block.body.copy()
    body[3, :, 4:] = False
    found = volumes(replace(block, body=body))
    assert (found["width_mm"][3, :, :4] == 6.0).all()
    np.testing.assert_allclose(found["aside_mm"][3, 0, :4], np.abs(np.arange(4) - 1.5) * 2.0)
    np.testing.assert_allclose(found["aside_mm"][4, 0], np.abs(np.arange(8) - 3.5) * 2.0)


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (24, 24, 24))


def test_features_do_without_dose_and_without_any_modality(case: Case) -> None:
    np.testing.assert_array_equal(voxel.voxel_features(replace(case, dose_gy=None)), voxel.voxel_features(case))
    bare = replace(case, structures={}, prescriptions_gy={}, ct_hu=None, beam_plate=None, angle_plate=None)
    features = voxel.voxel_features(bare)
    assert features.shape == (case.body.sum(), len(voxel.COLUMNS))
    assert np.isfinite(features).all()
    assert voxel.predict(voxel.VoxelNetwork(), bare).max() == 0


def test_rows_hold_the_doses_of_body_and_structures(case: Case) -> None:
    assert case.dose_gy is not None
    rows = training_rows(case)
    body, *structures = rows.parts
    assert len(body) == min(voxel.VOXELS_OF_BODY, case.body.sum())
    high = case.structures[case.targets[0]]
    doses = rows.ratio[structures[0]] * highest_gy(case)
    assert len(doses) == min(voxel.VOXELS_OF_STRUCTURE, high.sum())
    np.testing.assert_allclose(np.sort(doses), np.sort(case.dose_gy[high])[: len(doses)], rtol=1e-5)


def test_a_case_without_targets_or_dose_is_refused(case: Case) -> None:
    with pytest.raises(InputError, match="dose and targets"):
        training_rows(replace(case, structures={}, prescriptions_gy={}))
    with pytest.raises(InputError, match="no dose"):
        training_rows(replace(case, dose_gy=None))


def test_the_loss_is_that_of_bodies_plus_a_share_of_the_histograms(case: Case) -> None:
    """Once more, plainly, for two patients whose voxels are drawn in the same order."""
    rows, network = training_rows(case), voxel.VoxelNetwork()
    generator = torch.Generator().manual_seed(0)
    voxels, histograms = [], []
    for _ in range(2):
        for number, part in enumerate(rows.parts):
            if number == 0:
                drawn = part[torch.randint(len(part), (voxel.BODY_STEP,), generator=generator).numpy()]
            else:
                drawn = part[torch.randperm(len(part), generator=generator)[: voxel.STRUCTURE_STEP].numpy()]
            predicted, measured = network(torch.from_numpy(rows.features[drawn])), torch.from_numpy(rows.ratio[drawn])
            if number == 0:
                voxels.append((predicted - measured).abs().mean())
            else:
                histograms.append(dvh_distance(predicted, measured))
    expected = sum(voxels) / 2 + voxel.DVH_WEIGHT * sum(histograms) / len(histograms)
    found = loss_of(network, [rows, rows], torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)


def test_it_learns_the_dose_of_a_patient_and_the_same_again(case: Case) -> None:
    assert case.dose_gy is not None
    dose = train_voxel([case], 0, steps=60)(case)
    again = train_voxel([case], 0, steps=60)(case)
    assert dose.tobytes() == again.tobytes()
    mean = case.dose_gy[case.body].mean()
    spread = np.abs(case.dose_gy[case.body] - mean).mean()
    assert np.abs(dose - case.dose_gy)[case.body].mean() < 0.5 * spread
    assert dose[~case.body].max() == 0
