"""What a withheld modality leaves in the others' channels (docs/decisions/0051-u-shaped-network.md)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_model.channels.layout import BEAM, LIGHTS, ORGAN_ON_RAY, Layout
from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.network.pyramid import Conditions
from shared_model.patient.case import CONDITIONS
from shared_model.training.step import conditions_of
from shared_model.training.views import View, seen_from
from tests.builders.small_case import small_case

CASE = small_case()
PATIENT = patient_channels(CASE)


def given(*without: str, patient: PatientChannels = PATIENT) -> Conditions:
    names = [m for m in CONDITIONS if m not in without]
    return conditions_of(seen_from(patient, View()), patient.layout, names, torch.device("cpu"), torch.float32)


def moved_targets() -> PatientChannels:
    """The same patient and the same plates with targets elsewhere."""
    structures = {n: np.roll(m, 3, axis=2) & CASE.body if n in CASE.targets else m for n, m in CASE.structures.items()}
    return patient_channels(replace(CASE, structures=structures))


def test_without_ptv_the_beams_keep_what_they_know_of_targets() -> None:
    """A beam is shaped to the targets: without that it would be no beam. Nothing of it is zeroed."""
    whole, without = given(), given("ptv")
    assert set(whole.volumes) - set(without.volumes) == {"ptv"}
    assert all(torch.equal(without.volumes[m], whole.volumes[m]) for m in without.volumes)
    assert whole.beams is not None
    assert without.beams is not None
    assert torch.equal(without.beams, whole.beams)
    other = given("ptv", patient=moved_targets())
    assert other.beams is not None
    for k, name in enumerate(BEAM):
        assert torch.equal(other.beams[:, k], without.beams[:, k]) == (name == "open"), name
    for k in range(1, 1 + len(LIGHTS)):
        assert not torch.equal(other.volumes["beam"][:, k], without.volumes["beam"][:, k])


def test_without_ptv_and_beam_nothing_says_where_targets_are() -> None:
    """Plates are the case's own: `angle` crosses at the isocentre, wherever the plan put it."""
    here, there = given("ptv", "beam"), given("ptv", "beam", patient=moved_targets())
    assert here.beams is None
    assert there.beams is None
    assert set(here.volumes) == {"ct", "oar", "body", "angle"}
    assert all(torch.equal(here.volumes[m], there.volumes[m]) for m in here.volumes)


def test_without_oar_the_organ_on_the_ray_alone_is_zeroed() -> None:
    whole, without = given(), given("oar")
    assert whole.beams is not None
    assert without.beams is not None
    assert whole.beams[:, ORGAN_ON_RAY].any()
    assert not without.beams[:, ORGAN_ON_RAY].any()
    others = [k for k in range(len(BEAM)) if k != ORGAN_ON_RAY]
    assert torch.equal(without.beams[:, others], whole.beams[:, others])
    assert torch.equal(without.volumes["beam"], whole.volumes["beam"])


@pytest.mark.parametrize("name", ["ct", "body", "beam", "angle"])
def test_without_another_modality_its_own_channels_alone_are_gone(name: str) -> None:
    whole, without = given(), given(name)
    assert set(whole.volumes) - set(without.volumes) == {name}
    assert all(torch.equal(without.volumes[m], whole.volumes[m]) for m in without.volumes)
    assert (without.beams is None) == (name == "beam")
    if without.beams is not None and whole.beams is not None:
        assert torch.equal(without.beams, whole.beams)


@pytest.mark.parametrize("plate", [True, False])
def test_a_patient_without_targets_has_no_light_and_no_beam_of_its_own(plate: bool) -> None:
    """Not withheld but absent: then only the plates are left, as the plan gave them."""
    organs = {name: mask for name, mask in CASE.structures.items() if name not in CASE.targets}
    changes = {} if plate else {"beam_plate": None}
    bare = patient_channels(replace(CASE, structures=organs, prescriptions_gy={}, **changes))
    assert "ptv" not in bare.present
    assert ("beam" in bare.present) is plate
    assert bare.layout == Layout(beams=0)
    beam = bare.stack[..., bare.layout.of("beam")]
    assert beam[..., 0].any() == plate
    assert not beam[..., 1:].any()
    assert not bare.stack[..., bare.layout.of("ptv")].any()
