"""The voxel base's view of organs and of a voxel's place in its slice: distances, mirror images, nothing there."""

from dataclasses import replace

import numpy as np
import pytest

from shared_model.channels.surroundings import FAR_MM, NAMES, surroundings
from shared_model.diffusion.modalities import mirror
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from simulations.phantom.hospitals import STYLES, phantom_case


def volumes(case: Case) -> dict[str, np.ndarray]:
    found = np.zeros((*case.grid.shape, len(NAMES)), np.float32)
    found[case.body] = surroundings(case)
    return dict(zip(NAMES, np.moveaxis(found, -1, 0), strict=True))


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
