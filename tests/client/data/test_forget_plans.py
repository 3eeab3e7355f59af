"""Forgetting a patient of whom there are several plans takes them all, whatever kind of data they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client.data.case_files import save_case
from client.data.site_file import site_text
from client.setup import enrol
from client.setup.forget import forget, forgotten
from client.site.config import GDP_PRESCRIPTIONS, SiteConfig
from client.site.home import ClientHome
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium
from tests.builders.small_study import ellipsoid_case


def made(tmp_path: Path, kind: str, names: list[str]) -> ClientHome:
    """A site with one file for each of ``names``; the lists come of the names alone."""
    folder = tmp_path / "data"
    save_case(folder / f"{names[0]}.npz", ellipsoid_case())
    for name in names[1:]:
        shutil.copyfile(folder / f"{names[0]}.npz", folder / f"{name}.npz")
    (folder / GDP_PRESCRIPTIONS).write_text("{}")
    invitation = tmp_path / "north.invitation"
    invitation.write_bytes(Consortium().invitation("north").to_json())
    return enrol.create(invitation, tmp_path / "home", enrol.Data(kind=kind, root=folder, site_config=None))


def listed(home: ClientHome) -> SiteConfig:
    return SiteConfig.load(home.site_config)


@pytest.mark.parametrize("asked", ["7", "7_9Ag_A"])
def test_one_plan_stands_for_the_patient(tmp_path: Path, asked: str) -> None:
    home = made(tmp_path, "gdp", ["7+9Ag+A", "7+A4Ac+B", "77+9Ag+A", "8+9Ag+A", "8+A4Ac+B", "9+9Ag+A"])
    before = listed(home)
    assert before.plans == (("7_9Ag_A", "7_A4Ac_B"), ("8_9Ag_A", "8_A4Ac_B"))
    done = forget(home, asked)
    assert done.cases == ("7_9Ag_A", "7_A4Ac_B")
    after = listed(home)
    assert after.train == ("77_9Ag_A", "8_9Ag_A", "8_A4Ac_B")
    assert after.validation == before.validation
    assert after.plans == (("8_9Ag_A", "8_A4Ac_B"),)
    assert len(after.patients()) == len(before.patients()) - 1
    gone = set(forgotten(home.folder))
    assert gone >= {asked}
    assert gone == {"7"} or gone == {"7_9Ag_A", "7_A4Ac_B"}
    with pytest.raises(InputError, match="no case of"):
        forget(home, asked)
    assert len(list((tmp_path / "data").glob("7+*.npz"))) == 2  # the hospital's own


def test_case_files_grouped_by_hand_go_together(tmp_path: Path) -> None:
    home = made(tmp_path, "cases", ["a_1", "a_2", "b", "c", "d"])
    lists = {"train": ("a_1", "a_2", "b", "c"), "validation": ("d",)}
    grouped = replace(listed(home), **lists, plans=(("a_1", "b"),))
    home.site_config.write_text(site_text(grouped))
    assert forget(home, "b").cases == ("a_1", "b")
    after = listed(home)
    assert (after.train, after.plans) == (("a_2", "c"), ())
    assert set(forgotten(home.folder)) == {"a_1", "b"}
    for last in ("a_2", "c"):
        forget(home, last)
    with pytest.raises(InputError, match="no patient would be left"):
        forget(home, "d")


def test_all_that_was_derived_of_patients_goes(tmp_path: Path) -> None:
    """Also base doses, and what an alignment kept in its own folder where the site has no cache."""
    home = made(tmp_path, "cases", ["a", "b", "c"])
    home.site_config.write_text(site_text(replace(listed(home), cache=tmp_path / "cache")))
    private = home.folder / "private"
    derived = [tmp_path / "cache", private / "0123" / "cache", private / "0123.previous" / "cache"]
    files = [folder / name for folder in derived for name in ("latents/x.safetensors", "base/x.npz")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"volumes")
    assert forget(home, "a").deleted == len(files)
    assert not [path for path in files if path.exists()]


def test_least_patients_counts_patients_and_not_plans(tmp_path: Path) -> None:
    home = made(tmp_path, "gdp", ["7+9Ag+A", "7+A4Ac+B", "8+9Ag+A", "9+9Ag+A"])
    home.policy.write_text(home.policy.read_text().replace("least_patients: 1", "least_patients: 2"))
    assert len(listed(home).patients()) == 2
    assert any("1 training patients are fewer" in line for line in forget(home, "8").stays)
