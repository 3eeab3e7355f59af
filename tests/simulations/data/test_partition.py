"""Partitions: read as written, checked against the files, limited and pooled; bad input is one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from simulations.data.datasets import evaluation_sites, hospital_count, hospitals, training_sites
from simulations.data.partition import load_partition, one_site, openkbp_split
from simulations.settings.commands import data_settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of two hospitals whose files exist but are empty: a partition reads names alone."""
    hospitals = {
        "B": {"patients": {"train": ["pt_1", "pt_2"], "validation": ["pt_3"], "test": ["pt_9"]}},
        "A": {"patients": {"train": ["pt_4"], "validation": ["pt_5", "pt_6"], "test": []}},
    }
    _write(tmp_path, hospitals)
    splits = {"train": ["pt_1", "pt_2", "pt_4"], "validation": ["pt_3", "pt_5", "pt_6"], "test": ["pt_9"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    (tmp_path / "half64").mkdir()
    for number in (1, 2, 3, 4, 5, 6, 9):
        (tmp_path / "half64" / f"pt_{number}.npz").touch()
    return tmp_path


def _write(root: Path, hospitals: Any) -> None:
    (root / "ours.json").write_text(json.dumps({"hospitals": hospitals}))


def test_sites_are_the_file_s_in_its_order(root: Path) -> None:
    sites = load_partition(root, str(root / "ours.json"))
    assert [(site.site, site.train, site.validation) for site in sites] == [
        ("B", ("pt_1", "pt_2"), ("pt_3",)),
        ("A", ("pt_4",), ("pt_5", "pt_6")),
    ]
    assert all(site.data == "openkbp" and site.root == root for site in sites)


def test_limits_keep_the_first_cases(root: Path) -> None:
    sites = load_partition(root, str(root / "ours.json"), train_per_site=1, validation_per_site=1)
    assert [(site.train, site.validation) for site in sites] == [(("pt_1",), ("pt_3",)), (("pt_4",), ("pt_5",))]
    with pytest.raises(InputError, match="train_per_site is 0"):
        load_partition(root, str(root / "ours.json"), train_per_site=0)


def test_pooling_keeps_every_case_once(root: Path) -> None:
    sites = load_partition(root, str(root / "ours.json"))
    pooled = one_site(sites, "pooled")
    assert pooled == SiteConfig(
        site="pooled",
        data="openkbp",
        root=root,
        train=("pt_1", "pt_2", "pt_4"),
        validation=("pt_3", "pt_5", "pt_6"),
    )
    with pytest.raises(InputError, match="listed twice"):
        one_site([sites[0], sites[0]], "pooled")
    with pytest.raises(InputError, match="no sites"):
        one_site([], "pooled")


def test_official_splits(root: Path) -> None:
    assert openkbp_split(root, "test").validation == ("pt_9",)
    assert openkbp_split(root, "all", limit=4).validation == ("pt_1", "pt_2", "pt_4", "pt_3")
    with pytest.raises(InputError, match="split 'dev'"):
        openkbp_split(root, "dev")


def test_a_patient_without_a_file_is_named(root: Path) -> None:
    (root / "half64" / "pt_5.npz").unlink()
    with pytest.raises(InputError, match=r"pt_5\.npz: no such file; site A lists case pt_5"):
        load_partition(root, str(root / "ours.json"))


@pytest.mark.parametrize(
    ("hospitals", "says"),
    [
        ({}, "non-empty key 'hospitals'"),
        ([], "non-empty key 'hospitals'"),
        ({"A": {}}, "list of patients"),
        ({"A": {"patients": {"train": "pt_1"}}}, "list of patients under 'train'"),
        ({"A": {"patients": {"train": ["../pt_1"]}}}, "case id '../pt_1'"),
        ({"A": {"patients": {"train": ["pt_1"]}}, "B": {"patients": {"train": ["pt_1"]}}}, "belongs to A and to B"),
        ({"a/b": {"patients": {"train": ["pt_1"]}}}, "site: 'a/b'"),
    ],
)
def test_malformed_partitions(root: Path, hospitals: Any, says: str) -> None:
    _write(root, hospitals)
    with pytest.raises(InputError) as caught:
        load_partition(root, str(root / "ours.json"))
    assert says in str(caught.value)
    assert str(root / "ours.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'hospitals_5': expected one of"):
        load_partition(root, "hospitals_5")
    with pytest.raises(InputError, match=r"splits\.json: no such file"):
        load_partition(tmp_path / "elsewhere", "iid_4")
    (root / "ours.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        load_partition(root, str(root / "ours.json"))


def test_some_hospitals_alone_train_and_everybody_is_scored(root: Path) -> None:
    ours = str(root / "ours.json")
    data = data_settings({"data": {"kind": "openkbp", "root": str(root), "hospitals": ["A"]}})
    assert [site.site for site in hospitals(data, ours, root, 0)] == ["A"]
    assert hospital_count(data, ours, root) == 1
    assert [site.validation for site in training_sites(data, ours, root, 0)] == [("pt_4",)]
    with pytest.raises(InputError, match=r"data\.hospitals: no hospital 'C'; expected some of B, A"):
        hospitals(data_settings({"data": {"kind": "openkbp", "root": str(root), "hospitals": ["C"]}}), ours, root, 0)
    with pytest.raises(InputError, match="expected partition=NAME"):
        training_sites(data, None, root, 0)
    with pytest.raises(InputError, match="splits are scored whole"):
        evaluation_sites(data, "validation", root, 0)
    with pytest.raises(InputError, match="expected a list of hospitals' names"):
        data_settings({"data": {"kind": "openkbp", "root": str(root), "hospitals": "A"}})
    everybody = data_settings({"data": {"kind": "openkbp", "root": str(root)}})
    (site,) = training_sites(everybody, None, root, 0)
    assert site.validation == ("pt_1", "pt_2", "pt_4")
