"""Procedural clips as cases: light stands for dose, lamps for beams, and the control has the same frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.load import load_case
from shared_model.channels.layout import BEAM
from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.patient.case import MODALITIES, content_hash
from simulations.data.clip_cases import clip_case, write_clips
from simulations.data.datasets import hospitals, made_hospitals
from simulations.settings.commands import DataSettings
from simulations.studies.train_backbone import train_settings

EDGE = 32


def test_a_clip_is_a_case_with_every_modality_and_the_same_each_time() -> None:
    case = clip_case(3, 1, EDGE)
    assert content_hash(case) == content_hash(clip_case(3, 1, EDGE))
    assert content_hash(case) != content_hash(clip_case(4, 1, EDGE))
    assert set(patient_channels(case).present) == set(MODALITIES)
    assert case.dose_gy is not None
    assert case.dose_gy[~case.body].max() == 0
    high = case.structures[case.targets[0]]
    # What glows is lit: the light of the lamps ends there.
    assert case.dose_gy[high].mean() > 2 * case.dose_gy[case.body & ~high].mean()


def test_the_shuffled_control_has_the_same_frames_in_another_order() -> None:
    plain, mixed = clip_case(0, 0, EDGE), clip_case(0, 0, EDGE, shuffled=True)
    assert plain.ct_hu is not None
    assert mixed.ct_hu is not None
    assert not np.array_equal(plain.ct_hu, mixed.ct_hu)
    of_plain, of_mixed = (sorted(frame.tobytes() for frame in volume) for volume in (plain.ct_hu, mixed.ct_hu))
    assert of_plain == of_mixed


@pytest.mark.parametrize("index", range(4))
def test_lamps_are_where_the_gantry_angles_say(index: int) -> None:
    """Dose lies in the fields that the angles open, more than in those of a gantry turned by half a step."""
    case = clip_case(index, 7, EDGE)
    dose = case.dose_gy
    assert dose is not None

    def fit(turned_deg: float) -> float:
        angles = tuple((angle + turned_deg) % 360.0 for angle in case.gantry_deg)
        found = patient_channels(replace(case, gantry_deg=angles))
        stack, layout = found.stack, found.layout
        each = stack[..., layout.each_beam].reshape(*stack.shape[:3], layout.beams, len(BEAM))
        light = each[..., 0].sum(-1)
        inside = case.body[found.slices]
        return float(np.corrcoef(np.asarray(light)[inside], dose[found.slices][inside])[0, 1])

    assert fit(0.0) > fit(180.0 / len(case.gantry_deg))


def test_sites_of_clips_are_made_once_and_nothing_else_is_taken_for_them(tmp_path: Path) -> None:
    data = DataSettings(kind="clips", sites=2, patients=5, edge=16)
    sites = hospitals(data, "", tmp_path, 0)
    assert [site.site for site in sites] == ["clips-0", "clips-1"]
    assert all((len(site.train), len(site.validation)) == (4, 1) for site in sites)
    cases = [load_case(site, site.train[0]) for site in sites]
    assert content_hash(cases[0]) != content_hash(cases[1])
    assert hospitals(data, "", tmp_path, 0) == sites
    with pytest.raises(InputError, match="holds another"):
        write_clips(Path(sites[0].root), 5, 0, 16, shuffled=True, site="x")


def test_phantoms_have_the_voxels_that_are_asked_for(tmp_path: Path) -> None:
    (site,) = made_hospitals(DataSettings(kind="phantom", sites=1, patients=2, edge=16), tmp_path, 0)
    assert load_case(site, site.train[0]).grid.shape == (16, 16, 16)


def test_a_prior_trains_on_clips_by_one_word(tmp_path: Path) -> None:
    settings = train_settings(["data=clips", "data.shuffled=true", f"out={tmp_path}"])
    assert (settings.data.kind, settings.data.shuffled, settings.data.edge) == ("clips", True, 64)
    with pytest.raises(InputError, match=r"data\.edge"):
        train_settings(["data=clips", "data.edge=8"])
