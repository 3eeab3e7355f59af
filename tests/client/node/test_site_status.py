"""What a site's status says: what stands in the way, and nothing of an earlier start."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from client.node import status as site_status
from client.site.home import ClientHome
from privacy.flower.processes import write_state
from privacy.trust import certificates
from tests.builders.consortium import Site
from tests.builders.hospital_homes import Homes


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    return Homes(tmp_path).homes["a"]


def test_what_is_waited_for_is_said(home: ClientHome) -> None:
    """It said "connected | idle" and then refused everything."""
    assert site_status.hints(home) == []
    text = home.policy.read_text().replace("require_plan: false", "require_plan: true")
    home.policy.write_text(text)
    home.site_config.write_text(
        home.site_config.read_text().replace(f"root: {home.folder}", "root: /no/such").replace("- p", "- q")
    )
    found = " ".join(site_status.hints(home))
    assert "no plan is accepted" in found
    assert "/no/such is not there: is its disk mounted?" in found


def test_a_policy_that_is_just_being_edited_does_not_end_a_status(home: ClientHome) -> None:
    home.policy.write_text("modes: [")
    assert "policy.yaml" in site_status.hints(home)[0]


def test_no_training_patient_is_said(home: ClientHome) -> None:
    text = home.site_config.read_text()
    start, end = text.index("train:"), text.index("validation:")
    home.site_config.write_text(text[:start] + "train: []\n" + text[end:])
    assert "no training patient" in " ".join(site_status.hints(home))


def test_a_certificate_is_warned_of_thirty_days_ahead(home: ClientHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Site certificates last 90 days, and nothing warned on day 88."""
    consortium_key, authority = certificates.new_authority("x")
    key = certificates.private_key(Site().identity_key).public_key()
    for days, warned in ((20, True), (40, False)):
        monkeypatch.setattr(certificates, "SITE_DAYS", days)
        home.certificate.write_bytes(certificates.issue_site_certificate(consortium_key, authority, "a", key))
        assert any("server renew a" in hint for hint in site_status.hints(home)) is warned


def test_an_earlier_starts_connection_is_not_shown(home: ClientHome) -> None:
    """After every start it said "connected since <yesterday>", also with a wrong address."""
    yesterday = time.time() - 86400
    state = {"connection": "connected", "since": yesterday, "alive": yesterday, "node_id": 5, "pid": 7}
    write_state(home.state("supernode"), state)
    report = site_status.current(home, {"since": time.time(), "supernode": {"pid": 8}})
    assert "connecting to" in site_status.describe(report)
    assert report["node_id"] == 5


def test_a_clock_that_is_set_back_by_hours_hides_no_connection(home: ClientHome) -> None:
    """A machine that boots with a wrong clock, until NTP sets it: it was "connecting", and not healthy, for hours."""
    now = time.time()
    state = {"connection": "connected", "since": now, "alive": now, "node_id": 5, "pid": 7}
    write_state(home.state("supernode"), state)
    report = site_status.current(home, {"since": now + 3 * 3600, "supernode": {"pid": 7}})
    assert "connected to" in site_status.describe(report)
    assert report["silent_s"] is not None


@pytest.mark.parametrize(("offset", "says"), [(7200.0, "7200 s ahead of"), (-10800.0, "10800 s behind"), (2.0, "")])
def test_a_clock_that_is_hours_off_is_said_beside_the_refusal(home: ClientHome, offset: float, says: str) -> None:
    """The coordinator turns such a site away: a signed time may be 5 s ahead and 305 s behind."""
    state = {"connection": "refused", "alive": time.time(), "pid": 7, "clock_offset_s": offset}
    write_state(home.state("supernode"), state)
    line = site_status.describe(site_status.current(home, {"supernode": {"pid": 7}}))
    assert "is its clock right?" in line
    assert says in line
    assert ("set up NTP" in line) is bool(says)


def test_a_silent_connection_is_shown_as_silent(home: ClientHome) -> None:
    now = time.time()
    write_state(home.state("supernode"), {"connection": "connected", "since": now - 900, "alive": now - 600})
    line = site_status.describe(site_status.current(home, {"since": now - 1000}))
    assert "no sign of life from the connection for 60" in line


def test_a_health_check_asks_for_signs_of_life_and_not_for_a_connection(
    home: ClientHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the site would not bring back a coordinator that is away."""
    assert site_status.ill(home) == "client start does not run"
    monkeypatch.setattr(site_status, "is_running", lambda _: True)
    assert site_status.ill(home) == "its processes are starting"
    write_state(home.state("supernode"), {"connection": "retrying", "alive": time.time()})
    home.beat("executor").touch()
    assert site_status.ill(home) == ""
    write_state(home.state("supernode"), {"connection": "connected", "alive": time.time() - 200})
    assert "from the connection for 200 s" in site_status.ill(home)
    write_state(home.state("supernode"), {"connection": "connected", "alive": time.time()})
    os.utime(home.beat("executor"), (time.time() - 90, time.time() - 90))
    assert "from the executor for 90 s" in site_status.ill(home)
