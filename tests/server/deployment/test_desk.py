"""The desk for sites that come with a link: it keeps requests that prove an invitation, and hands out admissions."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from privacy.agreement.admission import Admission
from privacy.trust import certificates
from privacy.trust.link import MOST_BYTES, JoinLink
from privacy.trust.membership import AdmissionRequest, Invitation
from server.config.compose import compose_run
from server.config.federation_plan import make_plan
from server.consortium.admission import Admissions
from server.deployment.control import Control
from server.deployment.desk import JoinDesk
from server.deployment.home import ServerHome, create
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium, Site


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


@pytest.fixture
def registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the SuperLink, which the admission tells of the node key."""
    monkeypatch.setattr(Control, "__init__", lambda self, home: None)
    monkeypatch.setattr(Control, "register", lambda self, path: "77")
    monkeypatch.setattr(Control, "nodes", lambda self: [])


def ask(home: ServerHome, body: bytes) -> tuple[int, bytes]:
    return JoinDesk(home).answer(body)


def test_everybody_sees_the_certificates_that_a_link_is_checked_against(home: ServerHome) -> None:
    link = JoinLink.of(Admissions(home).invite("north", 14))
    found = link.invitation(called(home, "GET", [])[1])
    assert found.ca.encode() == home.ca_certificate.read_bytes()
    assert b"PRIVATE" not in called(home, "GET", [])[1]


def test_a_request_waits_until_the_coordinator_admits_it(home: ServerHome, registers: None) -> None:
    site = Site()
    body = site.request(Admissions(home).invite("north", 14))
    assert ask(home, body)[0] == 202
    assert home.waiting() == ["north"]
    assert ask(home, body)[0] == 202
    admissions = Admissions(home)
    admissions.admit(admissions.request("north"), home.ca_key)
    status, content = ask(home, body)
    assert status == 200
    signer, authority = home.document_keys().accepting(), home.ca_certificate.read_bytes()
    assert Admission.read(content, signer, authority, site.public).site == "north"
    assert home.waiting() == []


def test_the_next_document_key_reaches_a_site_that_joined_with_a_link(home: ServerHome, registers: None) -> None:
    site, admissions = Site(), Admissions(home)
    body = site.request(admissions.invite("north", 14))
    ask(home, body)
    admissions.admit(admissions.request("north"), home.ca_key)
    admissions.rotate(home.ca_key)
    signer, authority = home.document_keys().accepting(), home.ca_certificate.read_bytes()
    assert Admission.read(ask(home, body)[1], signer, authority, site.public).site == "north"


def test_a_later_plan_and_roster_are_handed_out_too_until_the_site_is_revoked(
    home: ServerHome, registers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, other, admissions = Site(), Site(), Admissions(home)
    body = site.request(admissions.invite("north", 14))
    ask(home, body)
    admissions.admit(admissions.request("north"), home.ca_key)
    signer, authority = home.document_keys().accepting(), home.ca_certificate.read_bytes()
    plan = make_plan(admissions.parties(), compose_run(["privacy.mode=none", "name=first", "model.prior=none"]))
    home.plan_file.write_bytes(plan.to_signed(home.roster_key.read_bytes()))
    ask(home, other.request(admissions.invite("south", 14)))
    admissions.admit(admissions.request("south"), home.ca_key)
    found = Admission.read(ask(home, body)[1], signer, authority, site.public)
    assert found.plan is not None
    assert found.plan.name == "first"
    assert found.roster.names() == ["north", "south"]
    admissions.revoke("north")
    assert ask(home, body)[0] == 403
    assert home.admission("south").exists()


def test_a_stranger_without_the_code_leaves_nothing(home: ServerHome) -> None:
    invitation = Admissions(home).invite("north", 14)
    wrong = [
        Site().request(Invitation(**{**vars(invitation), "code": "x" * 43})),
        Site().request(Invitation(**{**vars(invitation), "site": "south"})),
        Site().request(Consortium().invitation("north")),
    ]
    answers = {ask(home, body) for body in wrong}
    assert len(answers) == 1, "the answer must not tell which sites are invited"
    assert answers.pop()[0] == 403
    for body in (b"", b"rubbish", b'{"a": 1}', wrong[0].replace(b"north", b"nrrth")):
        assert ask(home, body)[0] in (400, 403)
    assert home.waiting() == []


def test_the_first_request_stays_and_another_with_the_same_code_is_told_so(home: ServerHome) -> None:
    invitation = Admissions(home).invite("north", 14)
    first, second = Site().request(invitation), Site().request(invitation)
    assert ask(home, first)[0] == 202
    status, content = ask(home, second)
    assert status == 409
    assert "somebody else" in json.loads(content)["error"]
    assert home.request("north").read_bytes() == first
    # A new invitation makes room.
    third = Site().request(Admissions(home).invite("north", 14))
    assert ask(home, third)[0] == 202
    assert home.request("north").read_bytes() == third


def test_an_expired_invitation_admits_nobody(home: ServerHome) -> None:
    body = Site().request(Admissions(home).invite("north", 14))
    kept = json.loads(home.invitations_file.read_text())
    kept["north"]["expires"] = "2020-01-01T00:00:00+00:00"
    home.invitations_file.write_text(json.dumps(kept))
    status, content = ask(home, body)
    assert status == 403
    assert "expired" in json.loads(content)["error"]
    assert home.waiting() == []


def test_an_admission_by_file_leaves_the_desk_alone(home: ServerHome, registers: None) -> None:
    admissions = Admissions(home)
    request = AdmissionRequest.read(Site().request(admissions.invite("north", 14)))
    admissions.admit(request, home.ca_key)
    assert not home.admission("north").exists()
    with pytest.raises(InputError, match="waiting: none"):
        admissions.request("north")


def test_a_fingerprint_of_the_certificate_is_the_links(home: ServerHome) -> None:
    link = JoinLink.of(Admissions(home).invite("north", 14))
    assert link.fingerprint == certificates.certificate_fingerprint(home.ca_certificate.read_bytes())


def called(home: ServerHome, method: str, pieces: list[bytes]) -> tuple[int, bytes]:
    events = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    events.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    async def send(event: Any) -> None:
        sent.append(dict(event))

    asyncio.run(JoinDesk(home)({"type": "http", "method": method}, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_a_body_that_is_too_long_is_not_read_to_its_end(home: ServerHome) -> None:
    assert called(home, "POST", [b"x" * 1000] * (MOST_BYTES // 1000 + 5))[0] == 413
    assert called(home, "POST", [b"x" * 100])[0] == 400
    assert called(home, "DELETE", [])[0] == 405
