"""Phantom hospitals: reproducible, valid, with dose that a physicist would believe, and styles that differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.case_files import load_case
from client.data.load import load_split
from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.patient.case import Case
from shared_model.patient.geometry import roi_grid
from simulations.data.partition import one_site
from simulations.phantom.anatomy import AnatomyStyle
from simulations.phantom.hospitals import STYLES, Style, find_style, phantom_case, write_hospital
from tests.builders.dose_falloff import dose_falloff

SMALL = (16, 16, 16)
SEEDS = range(6)


@pytest.fixture(scope="module")
def patients() -> list[Case]:
    return [phantom_case(seed, STYLES["openkbp_like"]) for seed in SEEDS]


def _dose(case: Case) -> np.ndarray:
    assert case.dose_gy is not None
    return case.dose_gy


def test_the_same_seed_gives_the_same_bits(patients: list[Case]) -> None:
    again = phantom_case(2, STYLES["openkbp_like"])
    for name in ("ct_hu", "dose_gy", "beam_plate", "angle_plate", "body"):
        assert np.array_equal(getattr(again, name), getattr(patients[2], name)), name
    assert not np.array_equal(_dose(patients[2]), _dose(patients[3]))


def test_targets_reach_their_prescription_and_stay_even(patients: list[Case]) -> None:
    for case in patients:
        dose = _dose(case)
        highest = case.structures["PTV_7000"]
        assert np.percentile(dose[highest], 5) == pytest.approx(68.25, abs=4.5)
        assert np.percentile(dose[highest], 99) < 86
        for name, level in case.prescriptions_gy.items():
            assert np.percentile(dose[case.structures[name]], 5) > 0.92 * level


def test_dose_falls_with_distance_and_stops_at_the_last_slice(patients: list[Case]) -> None:
    mean, beyond = dose_falloff(patients)
    # OpenKBP's training patients: 54, 39, 28, 21, 14 Gy in these shells; 1 Gy beyond 14 mm past the last slice.
    np.testing.assert_allclose(mean, [54, 39, 28, 21, 14], atol=5)
    assert beyond < 5


def test_organs_are_spared_and_lie_where_they_should(patients: list[Case]) -> None:
    for case in patients:
        dose = _dose(case)
        assert dose[~case.body].max() == 0
        cord = case.structures["SpinalCord"] & case.body
        assert np.percentile(dose[cord], 98) < 50
        centre = {name: np.argwhere(mask).mean(axis=0) for name, mask in case.structures.items()}
        for name, side in (("Parotid_L", 1), ("Parotid_R", -1)):
            if name in centre:
                assert side * (centre[name][2] - centre["SpinalCord"][2]) > 1
        assert centre["SpinalCord"][1] > centre["PTV_7000"][1]
        assert set(case.structures) <= {*OAR_NAMES, "PTV_7000", "PTV_6300", "PTV_5600"}
    parotids = [
        _dose(c)[c.structures[n]].mean() for c in patients for n in ("Parotid_L", "Parotid_R") if n in c.structures
    ]
    assert 20 < np.mean(parotids) < 42


def test_targets_are_disjoint_and_inside_the_body(patients: list[Case]) -> None:
    for case in patients:
        masks = np.array([case.structures[name] for name in case.targets])
        assert masks.sum(axis=0).max() == 1
        assert not (masks.any(axis=0) & ~case.body).any()


def test_the_grid_is_already_the_body_s_region_of_interest(patients: list[Case]) -> None:
    for case in patients:
        again = roi_grid(case.body, case.grid, case.grid.shape)
        np.testing.assert_allclose(again.spacing_mm, case.grid.spacing_mm)


def test_levels_and_organs_vary_between_patients() -> None:
    cases = [phantom_case(seed, STYLES["openkbp_like"], SMALL) for seed in range(12)]
    assert len({case.targets for case in cases}) >= 3
    assert all("PTV_7000" in case.structures for case in cases)
    assert len({frozenset(case.structures) for case in cases}) >= 5


def test_styles_plan_the_same_anatomy_differently() -> None:
    """On the same seeds: hard parotid sparing, a strict cord limit and few fields each leave their mark."""

    def mean_over(style: str, organ: str, percentile: float | None) -> float:
        planned = replace(find_style(style), anatomy=AnatomyStyle())
        cases = [phantom_case(seed, planned, SMALL) for seed in range(6)]
        values = [_dose(case)[case.structures[organ] & case.body] for case in cases if organ in case.structures]
        return float(np.mean([v.mean() if percentile is None else np.percentile(v, percentile) for v in values]))

    assert mean_over("parotid_9f", "Parotid_L", None) < mean_over("balanced_7f", "Parotid_L", None) - 2
    assert mean_over("cord_9f", "SpinalCord", 98) < mean_over("balanced_7f", "SpinalCord", 98) - 2
    same = [phantom_case(3, Style(plan=find_style(name).plan), SMALL) for name in ("balanced_7f", "coverage_5f")]
    assert np.array_equal(same[0].ct_hu, same[1].ct_hu)
    assert np.array_equal(same[0].structures["PTV_7000"], same[1].structures["PTV_6600"])
    prescribed = {name: set(phantom_case(1, style, SMALL).prescriptions_gy.values()) for name, style in STYLES.items()}
    assert prescribed["coverage_5f"] == {66.0, 54.0}
    assert prescribed["cord_9f"] == {69.96, 59.4}


def test_a_hospital_on_disk(tmp_path: Path) -> None:
    style = STYLES["balanced_7f"]
    site = write_hospital(tmp_path / "north", style, 3, 7, shape=SMALL)
    assert site == SiteConfig.load(tmp_path / "north" / "site.yaml")
    assert (site.site, len(site.train), len(site.validation)) == ("north", 2, 1)
    first = load_split(site, "train")[0]
    # The same hospital again: nothing is made anew, a lost patient comes back as it was.
    untouched = tmp_path / "north" / f"{site.train[1]}.npz"
    before = untouched.stat().st_mtime_ns
    (tmp_path / "north" / f"{site.train[0]}.npz").unlink()
    assert write_hospital(tmp_path / "north", style, 3, 7, shape=SMALL) == site
    assert untouched.stat().st_mtime_ns == before
    assert np.array_equal(_dose(load_split(site, "train")[0]), _dose(first))
    # Another hospital must not overwrite it.
    with pytest.raises(InputError, match="holds another phantom hospital"):
        write_hospital(tmp_path / "north", style, 3, 8, shape=SMALL)
    assert load_case(untouched).case_id == site.train[1]
    other = write_hospital(tmp_path / "south", style, 2, 8, shape=SMALL)
    pooled = one_site([site, other], "pooled")
    assert [case.case_id for case in load_split(pooled, "train")] == [*site.train, *other.train]
    assert one_site([site, other], "pooled") == pooled


def test_bad_requests(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        write_hospital(tmp_path, STYLES["balanced_7f"], 3, 1)
    with pytest.raises(InputError, match="2 or more"):
        write_hospital(tmp_path / "new", STYLES["balanced_7f"], 1, 1)
    with pytest.raises(InputError, match="12 voxels"):
        phantom_case(0, STYLES["balanced_7f"], (8, 32, 32))
    with pytest.raises(InputError, match="'nowhere': expected one of"):
        find_style("nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]
