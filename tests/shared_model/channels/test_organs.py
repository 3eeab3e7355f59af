"""Organs of other sites of the body at a model's inputs: every voxel at its own, sides kept, head and neck unmoved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared_model.channels.organs import as_inputs
from shared_model.channels.volumes import patient_channels
from shared_model.diffusion.modalities import mirror
from shared_model.patient.case import Case
from tests.builders.small_case import small_case


def thorax(**organs: np.ndarray) -> Case:
    case = small_case()
    targets = {name: case.structures[name] for name in case.targets}
    return replace(case, structures=targets | {name.replace("_GTV", "-GTV"): mask for name, mask in organs.items()})


def block(x: slice) -> np.ndarray:
    mask = np.zeros(small_case().grid.shape, dtype=bool)
    mask[3:9, 5:12, x] = True
    return mask


def test_each_organ_is_at_the_input_of_its_site_and_head_and_neck_stays() -> None:
    left, right, heart = block(slice(13, 17)), block(slice(3, 7)), block(slice(9, 11))
    case = thorax(Lung_L=left, Lung_R=right, Heart=heart, Liver=heart)
    seen = as_inputs(case, "thorax")
    assert set(seen.structures) == {*case.targets, "Parotid_L", "Parotid_R", "Brainstem"}
    np.testing.assert_array_equal(seen.structures["Parotid_L"], left)
    np.testing.assert_array_equal(seen.structures["Parotid_R"], right)
    np.testing.assert_array_equal(seen.structures["Brainstem"], heart)
    assert as_inputs(case, "head_neck") is case
    neck = small_case()
    drawn = replace(neck, structures={**neck.structures, "Lung_L": left, "Heart": heart})
    assert patient_channels(drawn).stack.tobytes() == patient_channels(neck).stack.tobytes()


def test_lungs_drawn_as_one_are_parted_into_both_and_nothing_is_lost() -> None:
    both = block(slice(3, 7)) | block(slice(13, 17))
    seen = as_inputs(thorax(Lungs_GTV=both), "thorax")
    np.testing.assert_array_equal(seen.structures["Parotid_L"], block(slice(13, 17)))
    np.testing.assert_array_equal(seen.structures["Parotid_R"], block(slice(3, 7)))
    one = block(slice(13, 17))
    assert "Parotid_R" not in as_inputs(thorax(Lungs_GTV=both, Lung_L=one), "thorax").structures


def test_a_mirrored_patients_lungs_change_sides() -> None:
    case = thorax(Lung_L=block(slice(13, 17)), Lung_R=block(slice(3, 7)), Trachea=block(slice(9, 11)))
    one, other = as_inputs(mirror(case), "thorax"), mirror(as_inputs(case, "thorax"))
    assert set(one.structures) == set(other.structures)
    for name, mask in one.structures.items():
        np.testing.assert_array_equal(mask, other.structures[name])


def test_a_bag_of_bowel_stands_in_for_the_space_of_the_bowel() -> None:
    bag, small = block(slice(3, 9)), block(slice(4, 6))
    seen = as_inputs(thorax(Bag_Bowel=bag, Bowel_Small=small, Rectum=small), "pelvis")
    np.testing.assert_array_equal(seen.structures["Bone_Mandible"], bag)
    np.testing.assert_array_equal(seen.structures["Esophagus"], small)
