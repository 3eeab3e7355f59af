"""The site.yaml that `client init` writes: it loads, whatever the names are, and says what it found."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.site_file import find_site, site_text
from client.site.config import SiteConfig
from shared_model.core.errors import InputError

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)


@given(
    site=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True),
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


@pytest.mark.parametrize(("cases", "held_back"), [(1, 0), (2, 1), (7, 1), (8, 2), (20, 4)])
def test_a_fifth_is_held_back(tmp_path: Path, cases: int, held_back: int) -> None:
    (tmp_path / "half64").mkdir()
    for number in range(cases):
        (tmp_path / "half64" / f"pt_{number:02}.npz").touch()
    (tmp_path / "half64" / "notes.txt").touch()
    found = find_site("n", "openkbp", tmp_path)
    assert len(found.validation) == held_back
    assert [*found.train, *found.validation] == [f"pt_{number:02}" for number in range(cases)]


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
