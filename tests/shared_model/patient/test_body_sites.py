"""Organs by site of the body: a model's seven inputs keep their sides, and every name is TG-263's."""

from __future__ import annotations

import pytest
import tg263

from shared_model.bundled import SCORECARDS
from shared_model.patient.anatomy import BODY_SITES, HEAD_NECK, OAR_NAMES, ORGANS, is_known, mirror_name, sites_of
from shared_model.scoring.scorecard_read import read_scorecard


@pytest.mark.parametrize("site", BODY_SITES)
def test_inputs_are_the_seven_and_paired_organs_are_at_paired_inputs(site: str) -> None:
    inputs = BODY_SITES[site].inputs
    assert tuple(inputs) == OAR_NAMES
    assert len(set(BODY_SITES[site].organs)) == len(BODY_SITES[site].organs)
    for place, organ in inputs.items():
        assert inputs[mirror_name(place)] == mirror_name(organ)


def test_every_organ_is_a_name_of_tg_263() -> None:
    names = {structure.primary_name for structure in tg263.ALLOWED_STRUCTURES}
    assert set(ORGANS) <= names
    assert ORGANS[:7] == OAR_NAMES  # what a Case of head and neck holds has not moved


@pytest.mark.parametrize("card", ["lung", "pelvis"])
def test_every_organ_of_a_bundled_card_can_be_scored(card: str) -> None:
    wanted = {
        region.structure
        for criterion in read_scorecard(SCORECARDS / f"{card}.yaml").criteria
        for region in criterion.regions
    }
    assert {name for name in wanted if not name.startswith("PTV") and not is_known(name)} == set()


def test_an_organ_of_several_sites_tells_none() -> None:
    assert sites_of(("SpinalCord", "Esophagus")) == ()
    assert sites_of(("SpinalCord", "Heart")) == ("thorax",)
    assert sites_of(("Parotid_L", "Lung_L", "Rectum")) == (HEAD_NECK, "thorax", "pelvis")
