"""`client upgrade-check`: a version that cannot go on with a site's folder says so, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.setup.upgrade import check_upgrade
from client.site.home import ClientHome
from privacy.trust import certificates
from privacy.wire.heads import OLDEST_SCHEMA, SCHEMA
from tests.builders.consortium import Site
from tests.builders.hospital_homes import Homes


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


def admitted(homes: Homes) -> ClientHome:
    """Hospital a with a certificate, as `client join` leaves it."""
    key, authority = certificates.new_authority("x")
    public = certificates.private_key(Site().identity_key).public_key()
    homes.homes["a"].certificate.write_bytes(certificates.issue_site_certificate(key, authority, "a", public))
    return homes.homes["a"]


def test_a_folder_that_this_version_reads_is_ready_and_untouched(homes: Homes) -> None:
    home = admitted(homes)
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    report = check_upgrade(home.folder)
    assert report.problems == ()
    assert report.schemas == (OLDEST_SCHEMA, SCHEMA)
    assert "can take over" in report.lines()[-1]
    assert before == {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}


def test_all_that_it_cannot_go_on_with_is_said_at_once(homes: Homes) -> None:
    home = homes.homes["a"]  # not admitted
    home.policy.write_text(home.policy.read_text() + "\nkey_of_the_future: 1\n")
    home.site_config.write_text("site: a")
    homes.pin(homes.plan(), ["a"])
    problems = check_upgrade(home.folder).problems
    for what in ("site.yaml", "admission", "policy.yaml", "plan: its model is not the one"):
        assert any(line.startswith(what) for line in problems), what
    assert check_upgrade(home.folder).lines()[-1].startswith("not ready")


def test_a_changed_ledger_is_a_problem(homes: Homes) -> None:
    home = admitted(homes)
    (home.folder / "ledger" / "head.json").write_text("{}")
    assert any("ledger" in line for line in check_upgrade(home.folder).problems)


def test_no_folder_is_a_problem(tmp_path: Path) -> None:
    assert check_upgrade(tmp_path / "none").problems
