"""The site.yaml that `client init` writes: it loads, whatever the names are, and says what it found."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.site_file import find_site, site_text
from client.site.config import SiteConfig
from shared_model.core.errors import InputError

SITES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)


@given(
    site=SITES,
    ids=st.lists(IDS, min_size=1, max_size=8, unique=True),
    folder=st.text("abc: #'\"{}[]-%ü", min_size=1, max_size=12),
    threads=st.integers(0, 1024),
)
def test_what_is_written_is_what_loads(
    tmp_path_factory: pytest.TempPathFactory, site: str, ids: list[str], folder: str, threads: int
) -> None:
    """Names such as `no`, `1e3` or `2024-01-01` are YAML's own words; they must come back as text."""
    root = tmp_path_factory.getbasetemp() / "data" / folder
    config = SiteConfig(
        site=site, data="cases", root=root, train=tuple(ids[1:]), validation=tuple(ids[:1]), cache=root, threads=threads
    )
    path = tmp_path_factory.getbasetemp() / "site.yaml"
    path.write_text(site_text(config), encoding="utf-8")
    assert SiteConfig.load(path) == config


@given(site=SITES, ids=st.sets(IDS, min_size=2, max_size=12), data=st.data())
def test_a_file_that_comes_or_goes_moves_no_other_patient(
    tmp_path_factory: pytest.TempPathFactory, site: str, ids: set[str], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("cases")
    for case in ids:
        (root / f"{case}.npz").touch()
    before = find_site(site, "cases", root)
    gone = data.draw(st.sampled_from(sorted(ids)))
    (root / f"{gone}.npz").unlink()
    after = find_site(site, "cases", root)
    assert after.train == tuple(case for case in before.train if case != gone)
    assert after.validation == tuple(case for case in before.validation if case != gone)


@given(site=SITES, ids=st.sets(st.from_regex(r"[1-9][0-9]{0,5}", fullmatch=True), min_size=1, max_size=6))
def test_a_plan_that_comes_moves_no_patient(tmp_path_factory: pytest.TempPathFactory, site: str, ids: set[str]) -> None:
    root = tmp_path_factory.mktemp("plans")
    (root / "PTV_DICT.json").touch()
    for patient in ids:
        (root / f"{patient}+A.npz").touch()
    before = find_site(site, "gdp", root)
    for patient in ids:
        (root / f"{patient}+B.npz").touch()
    after = find_site(site, "gdp", root)
    assert {case.partition("_")[0] for case in after.train} == {case.partition("_")[0] for case in before.train}
    assert {group[0] for group in after.plans} == set(before.train)


def test_about_a_fifth_is_held_back_each_site_its_own(tmp_path: Path) -> None:
    (tmp_path / "half64").mkdir()
    for number in range(1000):
        (tmp_path / "half64" / f"pt_{number:03}.npz").touch()
    (tmp_path / "half64" / "notes.txt").touch()
    one, other = find_site("n", "openkbp", tmp_path), find_site("m", "openkbp", tmp_path)
    # Four standard deviations of 1,000 draws.
    assert abs(len(one.validation) - 200) < 51
    assert sorted([*one.train, *one.validation]) == [f"pt_{number:03}" for number in range(1000)]
    assert 10 < len(set(one.validation) & set(other.validation)) < 80
    # The rule is for good: another one would move patients that were held back into training.
    assert one.validation[:3] == ("pt_001", "pt_004", "pt_018")


@pytest.mark.parametrize(
    ("data", "folder", "named"),
    [("scans", "", "--data scans"), ("cases", "nowhere", "no folder"), ("cases", "", r"no \*\.npz")],
)
def test_no_data_is_said(tmp_path: Path, data: str, folder: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        find_site("n", data, tmp_path / folder)


def test_a_file_named_like_a_patient_is_refused_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "Doe, Jane.npz").touch()
    with pytest.raises(InputError, match="pseudonym") as caught:
        find_site("n", "cases", tmp_path)
    assert "Doe" not in str(caught.value)
