"""One bad patient does not stop a hospital: the case is left out and named there, and comes back when it is mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.app import client_app
from client.data.left_out import UnreadableCasesError, left_out, without
from client.data.load import case_path, load_split
from client.node.status import hints
from client.site.config import SiteConfig
from tests.builders.hospital_homes import Homes, Pulls


class Reads(Pulls):
    """The quadratic, of a site whose cases are files that must say "good"."""

    def private_round(self, site, spec_json, vector, task, terms):  # type: ignore[no-untyped-def]
        bad = {case: "dose: a value is not finite" for case in site.train if text_of(site, case) != "good"}
        if bad:
            raise UnreadableCasesError(bad)
        self.trained = site.train
        return super().private_round(site, spec_json, vector, task, terms)


def text_of(site: SiteConfig, case: str) -> str:
    return case_path(site, case).read_text()


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    made = Homes(tmp_path / "homes")
    for home in made.homes.values():
        for case in ("p1", "p2", "p3"):
            path = case_path(SiteConfig.load(home.site_config), case)
            path.parent.mkdir(exist_ok=True)
            path.write_text("good")
    return made


def test_a_bad_patient_is_left_out_named_and_taken_back(homes: Homes, tmp_path: Path) -> None:
    """Before, a NaN in one dose made the whole site refuse all its patients ("data"), and the run failed."""
    home = homes.homes["a"]
    bad = case_path(SiteConfig.load(home.site_config), "p2")
    bad.write_text("a NaN in its dose")
    training = Reads()
    result = homes.run(tmp_path / "out", client_app(training))
    assert set(result.history[0].sites) == {"a", "b", "c"}
    assert homes.releases("a") == 1
    assert left_out(home.folder)["p2"]["why"] == "dose: a value is not finite"
    assert any("p2" in hint for hint in hints(home))
    site = SiteConfig.load(home.site_config)
    assert without(site, home.folder).train == ("p1", "p3")
    assert without(site, "") == site
    bad.write_text("good")
    assert without(site, home.folder) == site, "its file has changed"


def test_a_site_without_one_readable_patient_says_so(homes: Homes, tmp_path: Path) -> None:
    for case in ("p1", "p2", "p3"):
        case_path(SiteConfig.load(homes.homes["a"].site_config), case).write_text("x")
    with pytest.raises(Exception, match=r"a: refused \(data"):
        homes.run(tmp_path / "out", client_app(Reads()))
    assert homes.releases("a") == 0


def test_all_unreadable_cases_of_a_split_are_named_at_once(tmp_path: Path) -> None:
    site = SiteConfig(site="a", data="cases", root=tmp_path, train=("p1", "p2"), validation=())
    for case in ("p1", "p2"):
        case_path(site, case).parent.mkdir(exist_ok=True)
        case_path(site, case).write_text("no archive")
    with pytest.raises(UnreadableCasesError, match="and 1 more") as caught:
        load_split(site, "train")
    assert set(caught.value.cases) == {"p1", "p2"}
