"""A hospital's file names can be its patients' names: no log of its node holds one, nor the path of its data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.app import client_app
from client.data.left_out import left_out
from client.data.load import case_path, load_split, or_none
from client.node.site_log import SITE_LOGGER, SiteLog
from client.node.status import hints
from client.site.config import SiteConfig
from tests.builders.hospital_homes import Homes, Pulls

TELLING = ("doe_jane_1953", "miller_john_1948", "smith_ann_1961")


class Loads(Pulls):
    """The quadratic, of a site that loads its cases first."""

    def private_round(self, site, spec_json, vector, task, terms):  # type: ignore[no-untyped-def]
        load_split(site, "train")
        return super().private_round(site, spec_json, vector, task, terms)


@pytest.fixture
def site_log() -> Iterator[None]:
    """The handler that `client start` puts on the site's log."""
    handler = SiteLog()
    logging.getLogger(SITE_LOGGER).addHandler(handler)
    yield
    logging.getLogger(SITE_LOGGER).removeHandler(handler)


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    """Hospital a has files with telling names, none of which can be read."""
    made = Homes(tmp_path / "homes")
    home = made.homes["a"]
    config = replace(SiteConfig.load(home.site_config), train=TELLING, root=tmp_path / "export_of_dr_house")
    config.root.mkdir()
    config.save(home.site_config)
    for case in TELLING:
        case_path(config, case).parent.mkdir(exist_ok=True)
        case_path(config, case).write_text("no archive")
    return made


def names_nothing(text: str, homes: Homes) -> None:
    for word in (*TELLING, "house", str(homes.folder)):
        assert word not in text


def executor_log(caplog: pytest.LogCaptureFixture) -> str:
    """What the executor's log would hold."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "client.node.executor")


def test_a_training_on_unreadable_cases_logs_no_name(
    homes: Homes, tmp_path: Path, caplog: pytest.LogCaptureFixture, site_log: None
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(Exception, match=r"a: refused \(data"):
        homes.run(tmp_path / "out", client_app(Loads()))
    said = executor_log(caplog)
    assert "train of round 1 refused: data: UnreadableCasesError at" in said
    names_nothing(said, homes)


def test_a_case_that_counts_as_zero_is_logged_by_its_number(
    homes: Homes, caplog: pytest.LogCaptureFixture, site_log: None
) -> None:
    site = SiteConfig.load(homes.homes["a"].site_config)
    with caplog.at_level(logging.INFO):
        assert or_none(site, TELLING[1], lambda case: case) is None
    assert "case 2 of site.yaml cannot be used and counts as zero" in executor_log(caplog)
    names_nothing(executor_log(caplog), homes)


def test_what_client_start_prints_names_no_case_and_a_status_does(homes: Homes) -> None:
    """As a service, what it prints is in the machine's journal."""
    home = homes.homes["a"]
    (home.folder / "state" / "left_out.json").write_text('{"doe_jane_1953": {"why": "x", "state": "1 2"}}')
    assert list(left_out(home.folder)) == [TELLING[0]]
    assert TELLING[0] in " ".join(hints(home))
    said = " ".join(hints(home, for_log=True))
    assert "1 cases are left out" in said
    names_nothing(said, homes)
    site = SiteConfig.load(home.site_config)
    site.root.rename(site.root.with_name("elsewhere"))
    assert "export_of_dr_house is not there" in " ".join(hints(home))
    said = " ".join(hints(home, for_log=True))
    assert "the data folder of site.yaml is not there" in said
    names_nothing(said, homes)
    home.site_config.write_text("train: [doe_jane_1953, doe_jane_1953, ../x]")
    said = " ".join(hints(home, for_log=True))
    assert "site.yaml or policy.yaml cannot be used" in said
    names_nothing(said, homes)
