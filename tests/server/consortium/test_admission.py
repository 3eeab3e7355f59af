"""The coordinator's side of invitations: what is refused before Flower's SuperLink is asked for anything.

Admission itself, with a real SuperLink, is tested end to end (tests/e2e/test_admission.py).
"""

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privacy.trust.certificates import server_hosts
from privacy.trust.membership import AdmissionRequest, Invitation, leave_note
from privacy.trust.roster import Roster
from server.config.compose import compose_run
from server.config.federation_plan import Parties, make_plan
from server.consortium.admission import Admissions
from server.deployment.home import ServerHome, create, renew_tls
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium, Site


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


def request(invitation: Invitation, site: Site | None = None) -> AdmissionRequest:
    return AdmissionRequest.read((site or Site()).request(invitation))


def refused(home: ServerHome, asked: AdmissionRequest, ca_key: Path | None = None) -> str:
    """The reason; the roster and the open invitations are as before."""
    before = (home.roster_file.read_bytes(), home.invitations_file.read_bytes())
    with pytest.raises(InputError) as caught:
        Admissions(home).admit(asked, ca_key or home.ca_key)
    assert (home.roster_file.read_bytes(), home.invitations_file.read_bytes()) == before
    return str(caught.value)


def put_in(home: ServerHome, roster: Roster) -> None:
    home.roster_file.write_bytes(roster.to_signed(home.roster_key.read_bytes()))


def test_an_invitation_is_whole_and_its_code_is_not_kept(home: ServerHome) -> None:
    invitation = Admissions(home).invite("north", 14)
    assert Invitation.from_json(invitation.to_json()) == invitation
    assert invitation.address == "127.0.0.1:9092"
    assert stat.S_IMODE(home.invitations_file.stat().st_mode) == 0o600
    holders = [p for p in home.folder.rglob("*") if p.is_file() and invitation.code in p.read_text(errors="replace")]
    assert holders == []


def test_an_answer_to_an_open_invitation_gets_as_far_as_the_superlink(home: ServerHome) -> None:
    invitation = Admissions(home).invite("north", 14)
    assert "not running" in refused(home, request(invitation))


def test_only_the_last_invitation_of_the_very_site_counts(home: ServerHome) -> None:
    admissions = Admissions(home)
    first, second = admissions.invite("north", 14), admissions.invite("north", 14)
    assert "last invitation" in refused(home, request(first))
    assert "not running" in refused(home, request(second))
    admissions.invite("south", 14)
    # The code of north, in a request for south.
    stolen = Invitation(**{**vars(second), "site": "south"})
    assert "last invitation of south" in refused(home, request(stolen))
    assert "no open invitation" in refused(home, request(Invitation(**{**vars(second), "site": "east"})))


def test_an_expired_invitation_is_refused(home: ServerHome) -> None:
    invitation = Admissions(home).invite("north", 14)
    kept = json.loads(home.invitations_file.read_text())
    kept["north"]["expires"] = "2020-01-01T00:00:00+00:00"
    home.invitations_file.write_text(json.dumps(kept))
    assert "expired" in refused(home, request(invitation))


def test_an_invitation_of_another_consortium_is_refused(home: ServerHome) -> None:
    Admissions(home).invite("north", 14)
    assert "another consortium" in refused(home, request(Consortium().invitation("north")))


def test_keys_that_were_used_before_are_refused(home: ServerHome) -> None:
    admissions, known, fresh = Admissions(home), Site(), Site()
    asked = request(admissions.invite("north", 14), known)
    identity, node_key = asked.identity.public_bytes_raw().hex(), asked.node_key
    from privacy.trust.identity import node_fingerprint

    roster = admissions.roster().admit(
        "north", identity=identity, certificate="0" * 64, node_key=node_fingerprint(node_key)
    )
    for now in (roster, roster.revoke("north")):
        put_in(home, now)
        invitation = Admissions(home).invite("south", 14)
        fresh.node_key, kept = known.node_key, fresh.node_key
        assert "used before" in refused(home, request(invitation, fresh))
        fresh.node_key = kept
        mixed = Site()
        mixed.identity_key = known.identity_key
        assert "used before" in refused(home, request(invitation, mixed))
        assert "not running" in refused(home, request(invitation))


def test_the_authoritys_key_may_be_elsewhere_but_must_be_the_authoritys(home: ServerHome, tmp_path: Path) -> None:
    invitation = Admissions(home).invite("north", 14)
    moved = home.ca_key.rename(tmp_path / "usb.key")
    Admissions(home).invite("south", 14)  # needs no authority
    assert "--ca-key" in refused(home, request(invitation))
    assert "not running" in refused(home, request(invitation), moved)
    assert "belongs to" in refused(home, request(invitation), home.roster_key)


def test_a_roster_that_somebody_edited_is_refused(home: ServerHome) -> None:
    put_in(home, Roster(consortium=Consortium().id))
    with pytest.raises(InputError, match=r"roster\.json.*another consortium"):
        Admissions(home).roster()
    home.roster_file.write_bytes(home.roster_file.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(InputError, match="changed"):
        Admissions(home).roster()


@pytest.mark.parametrize(("site", "days"), [("no/rth", 14), ("", 14), ("north", 0), ("north", 9999)])
def test_bad_invitations_are_not_made(home: ServerHome, site: str, days: int) -> None:
    with pytest.raises(InputError):
        Admissions(home).invite(site, days)
    assert not home.invitations_file.exists()


def test_renewing_gives_the_same_key_a_new_certificate(home: ServerHome) -> None:
    from privacy.agreement.admission import Admission

    site = Site()
    roster = (
        Admissions(home)
        .roster()
        .admit("north", identity=site.public.public_bytes_raw().hex(), certificate="0" * 64, node_key="1" * 64)
    )
    put_in(home, roster)
    signer = home.document_keys().accepting()
    renewed = Admission.read(
        Admissions(home).renew("north", home.ca_key), signer, home.ca_certificate.read_bytes(), site.public
    )
    assert renewed.roster.version == roster.version + 1
    assert Admissions(home).roster() == renewed.roster
    with pytest.raises(InputError, match="south"):
        Admissions(home).renew("south", home.ca_key)


def test_the_plan_is_what_the_run_asks_for(home: ServerHome) -> None:
    config = compose_run(
        [
            "privacy.mode=none",
            "name=first",
            "model.prior=none",
            "rounds.count=3",
            "train.local_steps=7",
            "rounds.min_sites=3",
        ]
    )
    roster = Admissions(home).roster()
    parties = Parties(consortium=roster.consortium, roster_version=roster.version, sites={}, certificates={})
    plan = make_plan(parties, config)
    assert (plan.version, plan.answers) == (1, 5)
    assert (plan.name, plan.rounds, plan.local_steps, plan.least_sites) == ("first", 3, 7, 3)
    assert plan.prior == "none:0"
    other = compose_run(["privacy.mode=none", "model.prior=none", "model.init_seed=1"])
    assert plan.manifest != make_plan(parties, other).manifest


def test_a_leave_note_counts_only_from_the_site_itself(home: ServerHome) -> None:
    north, south = Site(), Site()
    admissions = Admissions(home)
    roster = admissions.roster()
    for name, site, mark in (("north", north, "1"), ("south", south, "2")):
        identity_hex = site.public.public_bytes_raw().hex()
        roster = roster.admit(name, identity=identity_hex, certificate=mark * 64, node_key=mark * 64)
    put_in(home, roster)
    consortium = Invitation.from_json(admissions.invite("west", 14).to_json()).consortium
    note = leave_note(consortium, "north", north.identity_key)
    assert admissions.check_left("north", note)
    for site, wrong in (
        ("south", note),
        ("north", leave_note(consortium, "north", south.identity_key)),
        ("north", leave_note("0" * 32, "north", north.identity_key)),
        ("north", note.replace(b"north", b"south")),
        ("nobody", note),
    ):
        with pytest.raises(InputError):
            admissions.check_left(site, wrong)


def test_a_new_tls_certificate_answers_to_the_old_names_and_the_new_ones(home: ServerHome) -> None:
    before = (home.tls_key.read_bytes(), home.tls_certificate.read_bytes())
    certificate = renew_tls(home, home.ca_key.read_bytes(), ["fed.example.org", "10.0.0.7"])
    assert (home.tls_certificate.read_bytes(), certificate != before[1]) == (certificate, True)
    assert home.tls_key.read_bytes() != before[0]
    assert stat.S_IMODE(home.tls_key.stat().st_mode) == 0o600
    assert server_hosts(certificate) == ["127.0.0.1", "localhost", "fed.example.org", "10.0.0.7"]
    key = load_pem_private_key(home.tls_key.read_bytes(), None)
    assert x509.load_pem_x509_certificate(certificate).public_key() == key.public_key()
    with pytest.raises(InputError, match="CA"):
        renew_tls(home, before[0], [])
    assert home.tls_certificate.read_bytes() == certificate
