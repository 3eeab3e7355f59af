"""The key that signs plans, rosters and admissions: it is not the CA's, it ends, and `server rotate` makes the next."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from client.setup.enrol import join, pin_plan
from client.site.home import ClientHome
from client.site.seen_log import SeenLog
from privacy.agreement.admission import Admission
from privacy.agreement.federation_plan import plan_hash
from privacy.trust import certificates, identity
from privacy.trust.roster import Roster
from server.config.compose import compose_run
from server.config.federation_plan import Parties, make_plan
from server.consortium.admission import Admissions
from server.consortium.plan import sign_plan
from server.deployment.home import ServerHome, create
from shared_model.core.errors import InputError
from shared_model.core.files import PRIVATE, PUBLIC, create_file
from tests.builders.consortium import Site


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


@pytest.fixture
def site(home: ServerHome, tmp_path: Path) -> ClientHome:
    """A site that was admitted under the first key and has pinned a plan; no SuperLink runs."""
    keys = Site()
    invitation = Admissions(home).invite("north", 14)
    made = ClientHome(
        folder=tmp_path / "north", site="north", consortium=invitation.consortium, name="cons", server="127.0.0.1:9092"
    )
    for part in ("keys", "trust", "state"):
        (made.folder / part).mkdir(parents=True)
    create_file(made.identity_key, keys.identity_key, PRIVATE)
    create_file(made.ca_certificate, invitation.ca.encode(), PUBLIC)
    create_file(made.signer_certificate, invitation.signer.encode(), PUBLIC)
    authority, key = home.ca_certificate.read_bytes(), home.ca_key.read_bytes()
    certificate = certificates.issue_site_certificate(key, authority, "north", keys.public)
    roster = (
        Admissions(home)
        .roster()
        .admit(
            "north",
            identity=keys.public.public_bytes_raw().hex(),
            certificate=certificates.certificate_fingerprint(certificate),
            node_key="1" * 64,
        )
    )
    home.roster_file.write_bytes(roster.to_signed(home.roster_key.read_bytes()))
    join(made, admission(home, tmp_path))
    pin_plan(made, plan(home, tmp_path))
    return made


def admission(home: ServerHome, folder: Path) -> Path:
    """What `server renew north` hands over."""
    path = folder / "north.admission"
    path.write_bytes(Admissions(home).renew("north", home.ca_key))
    return path


def plan(home: ServerHome, folder: Path) -> Path:
    """A plan that `server plan` made."""
    sign_plan(home, ["privacy.mode=none", "model.prior=none", f"name={folder.name}"], 30)
    return home.plan_file


def test_the_key_is_not_the_cas_and_ends_within_two_years(home: ServerHome) -> None:
    key = load_pem_private_key(home.roster_key.read_bytes(), password=None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert home.roster_key.read_bytes() != home.ca_key.read_bytes()
    ends = certificates.expires(home.roster_certificate.read_bytes())
    begun = certificates.begins(home.roster_certificate.read_bytes())
    assert (ends - begun).days == certificates.DOCUMENT_DAYS == 730


def test_after_a_rotation_the_next_admission_brings_the_new_key(
    home: ServerHome, site: ClientHome, tmp_path: Path
) -> None:
    pinned, before = site.pinned_plan(), Admissions(home).roster().version
    Admissions(home).rotate(home.ca_key)
    assert Admissions(home).roster().version == before + 1
    # The coordinator still reads the plan of the retired key, and the site still works under it.
    assert Admissions(home).plan(home.plan_file.read_bytes()) == pinned
    join(site, admission(home, tmp_path))
    assert site.signer_certificate.read_bytes() == home.roster_certificate.read_bytes()
    assert site.pinned_plan() == pinned
    assert site.roster() == Admissions(home).roster()
    assert pin_plan(site, plan(home, tmp_path)) == plan_hash(home.plan_file.read_bytes())
    assert site.pinned_plan() != pinned
    # A second rotation, and so a site may miss none of them or one.
    Admissions(home).rotate(home.ca_key)
    join(site, admission(home, tmp_path))
    assert len(site.document_keys().retired) == 2
    assert site.pinned_plan() is not None


def test_what_a_retired_key_signs_is_not_accepted_any_more(home: ServerHome, site: ClientHome, tmp_path: Path) -> None:
    """A key may be retired because it was stolen. The thief signs the next roster and the next plan with it."""
    stolen, certificate = home.roster_key.read_bytes(), home.roster_certificate.read_bytes()
    Admissions(home).rotate(home.ca_key)
    join(site, admission(home, tmp_path))
    roster = Admissions(home).roster().renew("north", "2" * 64)
    config = compose_run(["privacy.mode=none", "model.prior=none"], 1)
    parties = Parties(consortium=roster.consortium, roster_version=1, sites={}, certificates={})
    forged = tmp_path / "forged.json"
    forged.write_bytes(make_plan(parties, config, 99, 30).to_signed(stolen))
    with pytest.raises(InputError, match="signed by another key than expected, perhaps a retired one"):
        pin_plan(site, forged)
    for signer in (None, certificate):
        content = Admission.make("north", site.certificate.read_bytes(), roster.to_signed(stolen), None, stolen, signer)
        forged.write_bytes(content)
        with pytest.raises(InputError, match="retired"):
            join(site, forged)
    assert site.roster() == Admissions(home).roster()


def test_a_key_that_the_ca_did_not_certify_brings_nothing(home: ServerHome, site: ClientHome, tmp_path: Path) -> None:
    key, authority = certificates.new_authority("FedKT3D cons")
    own, certificate = certificates.issue_document_certificate(key, authority)
    roster = Admissions(home).roster().to_signed(own)
    forged = tmp_path / "forged"
    forged.write_bytes(Admission.make("north", site.certificate.read_bytes(), roster, None, own, certificate))
    with pytest.raises(InputError, match="not issued by this consortium's CA"):
        join(site, forged)
    assert not site.retired_signers.exists()


def test_an_ended_key_signs_nothing_and_brings_nothing_to_a_site(
    home: ServerHome, site: ClientHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = admission(home, tmp_path)
    later = certificates.expires(home.roster_certificate.read_bytes())
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("privacy.trust.document_keys._now", lambda: later)
    for act in (
        lambda: Admissions(home).invite("south", 14),
        lambda: Admissions(home).renew("north", home.ca_key),
        lambda: plan(home, tmp_path),
    ):
        with pytest.raises(InputError, match=r"ended on .* `server rotate`"):
            act()
    assert {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()} == before
    with pytest.raises(InputError, match=r"ended on .* `server renew SITE` brings it to each site"):
        join(site, old)


def test_a_site_goes_on_with_what_it_has_when_the_key_ends(
    home: ServerHome, site: ClientHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = certificates.expires(home.roster_certificate.read_bytes())
    monkeypatch.setattr("privacy.trust.document_keys._now", lambda: later)
    assert site.pinned_plan() is not None
    assert site.roster() is not None
    with pytest.raises(InputError, match="ended on"):
        site.signer()


def test_a_plan_of_a_retired_key_is_offered_to_no_site(home: ServerHome, site: ClientHome, tmp_path: Path) -> None:
    before = json.loads(admission(home, tmp_path).read_text())["document"]
    assert before["plan"] is not None
    assert "signer" not in before  # as sites of an earlier version read it
    Admissions(home).rotate(home.ca_key)
    after = json.loads(admission(home, tmp_path).read_text())["document"]
    assert after["plan"] is None
    plan(home, tmp_path)
    assert json.loads(admission(home, tmp_path).read_text())["document"]["plan"] is not None


def test_the_log_stays_readable_at_sites_that_wait_for_their_admission(home: ServerHome, site: ClientHome) -> None:
    seen = SeenLog(site)
    seen.take(home.public_log().receipt(0))
    Admissions(home).rotate(home.ca_key)
    size = home.public_log().size()
    seen.take(home.public_log().receipt(seen.size()))
    assert seen.size() == size


def test_a_site_that_joins_after_a_rotation_reads_the_log(home: ServerHome, site: ClientHome, tmp_path: Path) -> None:
    first = site.signer_certificate.read_bytes()
    Admissions(home).rotate(home.ca_key)
    site.signer_certificate.write_bytes(home.roster_certificate.read_bytes())  # as its invitation says
    for path in (site.roster_file, site.plan_file, site.offered_plan, site.certificate):
        path.unlink(missing_ok=True)
    join(site, admission(home, tmp_path))
    assert site.document_keys().retired == (first,)
    seen = SeenLog(site)
    seen.take(home.public_log().receipt(0))
    assert seen.size() == home.public_log().size()


def test_a_rotation_that_a_crash_cut_short_is_done_again(home: ServerHome, site: ClientHome, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (home.roster_certificate, home.roster_file)}
    Admissions(home).rotate(home.ca_key)
    for path, content in before.items():  # the crash came after the key and before its certificate
        path.write_bytes(content)
    with pytest.raises(InputError, match="not the key of its certificate; `server rotate` makes a new pair"):
        Admissions(home).renew("north", home.ca_key)
    Admissions(home).rotate(home.ca_key)
    join(site, admission(home, tmp_path))
    assert Roster.from_signed(identity.read_input(home.roster_file), site.signer(), site.consortium)
