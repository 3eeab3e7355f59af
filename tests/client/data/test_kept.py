"""What a site's process keeps in memory between rounds, and what it lets go."""

from dataclasses import replace
from pathlib import Path

import pytest

from client.data import kept
from client.data.kept import latest_per_site
from client.site.config import SiteConfig

SITE = SiteConfig(site="a", data="cases", root=Path("/nowhere"), train=("p1",), validation=())


def test_each_site_keeps_its_last_result_and_no_other() -> None:
    made: list[tuple[str, int]] = []

    @latest_per_site
    def make(site: SiteConfig, number: int) -> int:
        made.append((site.site, number))
        return number

    other = replace(SITE, site="b")
    assert [make(SITE, 1), make(other, 1), make(SITE, 1), make(other, 1)] == [1, 1, 1, 1]
    assert made == [("a", 1), ("b", 1)]
    assert [make(SITE, 2), make(SITE, 1), make(other, 1)] == [2, 1, 1]
    assert made == [("a", 1), ("b", 1), ("a", 2), ("a", 1)]
    make(replace(SITE, cache=Path("/elsewhere")), 1)
    assert len(made) == 4, "another folder for derived files"
    make(replace(SITE, train=("p1", "p2")), 1)
    assert len(made) == 5, "another configuration of the same site"


def test_a_failure_is_not_kept_and_sites_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_SITES", 2)
    made: list[str] = []

    @latest_per_site
    def make(site: SiteConfig) -> str:
        made.append(site.site)
        if made == ["a"]:
            raise ValueError("first")
        return site.site

    with pytest.raises(ValueError, match="first"):
        make(SITE)
    for name in ("a", "b", "c", "b", "c", "a"):
        assert make(replace(SITE, site=name)) == name
    assert made == ["a", "a", "b", "c", "a"]
