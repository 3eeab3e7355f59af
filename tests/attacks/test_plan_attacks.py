"""A coordinator that plays all other hospitals, revives old plans or runs a plan again and again."""

import datetime as dt
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from client.app import client_app
from client.gate.gates import HospitalGate
from client.gate.secure_site import SITES
from client.setup.enrol import pin_plan
from client.site.policy import default_policy_text
from privacy.agreement import federation_plan
from privacy.agreement.federation_plan import FederationPlan, plan_hash
from privacy.secagg.context import SumTerms, least_threshold
from privacy.secagg.errors import SecAggError
from privacy.trust import certificates
from privacy.trust.peers import check_identities, is_low_order, peer_digits
from privacy.wire.messages import Request
from privacy.wire.secure_work import config_hash
from server.config.privacy import run_terms
from server.rounds.result import QuorumError
from shared_model.core.errors import InputError, PolicyError
from tests.builders.hospital_homes import CONFIG, MANIFEST, SPEC, Homes, Pulls

APP = client_app(Pulls())


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    yield Homes(tmp_path / "homes")
    SITES.close()


def invented(homes: Homes, count: int = 127, key: bytes = b"") -> bytes:
    """A plan of hospital a and of ``count`` hospitals that the coordinator has made up, with keys of its own."""
    sites = {"a": homes.consortium.roster.identities()["a"]}
    for number in range(count):
        own = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        sites[f"hospital-{number}"] = own.hex()
    terms = run_terms(
        replace(
            CONFIG,
            privacy=replace(CONFIG.privacy, sites=count + 1, z=8.0),
            rounds=replace(CONFIG.rounds, min_sites=count + 1),
        )
    )
    assert terms is not None
    privacy = {name: value for name, value in terms.to_plain().items() if name != "mode"}
    return homes.plan(
        sites=sites,
        privacy=privacy,
        certificates=homes.consortium.certificates(sites, key),
        least_sites=count + 1,
        roster_version=99,
    )


def asked_for_keys(homes: Homes, plan: bytes) -> Request:
    """The first message of a sum over the plan's sites."""
    read = FederationPlan.from_signed(plan, homes.consortium.signer_public, homes.consortium.id)
    run_id, count = uuid.uuid4().hex, len(read.sites)
    head = Request(kind="describe", run_id=run_id, spec_json=SPEC, manifest_hash=MANIFEST)
    terms = SumTerms(
        session=bytes.fromhex(run_id),
        nonce=b"n" * 16,
        round=1,
        steps=1,
        config=config_hash(head, bytes.fromhex(plan_hash(plan))),
        roster=read.cohort.digest,
        threshold=least_threshold(count, 1),
        least_survivors=count,
        colluders=1,
        ring_bits=32,
        length=8,
    )
    return replace(head, kind="secure_keys", secure=terms)


def answer(homes: Homes, plan: bytes) -> None:
    """Have hospital a pin the plan and answer the first message, as its app would."""
    home = homes.homes["a"]
    path = home.folder / "offered.json"
    path.write_bytes(plan)
    pin_plan(home, path)
    asked = asked_for_keys(homes, plan)
    gate = HospitalGate.of_home(home.folder)
    gate.limits.check_request(homes.site("a"), asked, dt.datetime.now())
    gate.secure_site().answer(asked)


def test_a_plan_of_127_invented_hospitals_is_not_even_pinned(homes: Homes) -> None:
    """Sybil: without the CA's key nobody can be another hospital to this one. The policy is the untouched default."""
    homes.homes["a"].policy.write_text(default_policy_text())
    other_key, other = certificates.new_authority("someone else")
    forged = invented(homes)
    read = FederationPlan.from_signed(forged, homes.consortium.signer_public, homes.consortium.id)
    stamped = {
        name: certificates.issue_site_certificate(
            other_key, other, name, ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        ).decode()
        for name, key in read.sites.items()
    }
    content = replace(read, certificates=stamped).to_signed(homes.consortium.signer_key)
    with pytest.raises(InputError, match="not issued by this consortium's CA"):
        answer(homes, content)


def test_invented_hospitals_that_the_ca_has_certified_get_no_key_either(homes: Homes) -> None:
    """The coordinator also holds the CA's key. The untouched default policy asks for keys that people have compared."""
    homes.homes["a"].policy.write_text(default_policy_text())
    with pytest.raises(PolicyError, match=r"known_peers: 127 of 128 sites are unknown here"):
        answer(homes, invented(homes))


def test_hospitals_that_were_compared_get_keys_and_a_swapped_key_does_not(homes: Homes, tmp_path: Path) -> None:
    plan = homes.pin(homes.plan())
    for name in homes.homes:
        homes.change_policy(name, "known_peers: false", "known_peers: true")
    with pytest.raises(QuorumError, match="known_peers: 2 of 3 sites are unknown here, such as b"):
        homes.run(tmp_path / "first", APP, plan=plan)
    keys = homes.consortium.roster.identities()
    for home in homes.homes.values():
        for name, key in keys.items():
            home.peers.add(name, peer_digits(homes.consortium.id, name, key))
    homes.run(tmp_path / "second", APP, plan=plan)
    home = homes.homes["a"]
    home.peers.remove("b")
    home.peers.add("b", peer_digits(homes.consortium.id, "b", keys["c"]))
    with pytest.raises(QuorumError, match="known_peers: 1 of 3 sites are unknown here, such as b"):
        homes.run(tmp_path / "third", APP, plan=plan)


def test_one_sites_noise_is_not_diluted_among_invented_ones(homes: Homes) -> None:
    """128 sites share the noise that three would; the default of max_epsilon_alone ends that before anything leaves."""
    plan = FederationPlan.from_signed(invented(homes), homes.consortium.signer_public, homes.consortium.id)
    homes.homes["a"].policy.write_text(default_policy_text())
    ledger = HospitalGate.of_home(homes.homes["a"].folder).limits.ledger
    assert ledger is not None
    assert plan.terms is not None
    ledger.check(replace(plan.terms, sites=5, survivors=5).charge(1))
    with pytest.raises(PolicyError, match="max_epsilon_alone"):
        ledger.check(replace(plan.terms, z=2.0).charge(4))


def test_keys_of_low_order_and_copied_keys_are_in_no_roster_and_no_plan(homes: Homes) -> None:
    low = [(0).to_bytes(32, "little"), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]
    low += [(2**255 - 19).to_bytes(32, "little"), (2**255 + 1).to_bytes(32, "little")]
    low += [bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")]
    low += [bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")]
    assert all(map(is_low_order, low))
    identities = homes.consortium.roster.identities()
    assert not any(is_low_order(bytes.fromhex(key)) for key in identities.values())
    for key in low:
        with pytest.raises(InputError, match="north: its identity key is of low order"):
            homes.consortium.roster.admit("north", identity=key.hex(), certificate="0" * 64, node_key="1" * 64)
    copied = {**identities, "b": identities["a"]}
    with pytest.raises(InputError, match="sites a and b have one identity key"):
        check_identities(copied)
    content = homes.plan(sites=copied)
    with pytest.raises(InputError, match="sites a and b have one identity key"):
        homes.homes["a"].read_plan(_written(homes, content))


def _written(homes: Homes, content: bytes) -> Path:
    path = homes.homes["a"].folder / "offered.json"
    path.write_bytes(content)
    return path


def test_a_revoked_peer_takes_no_part_in_any_plan(homes: Homes, tmp_path: Path) -> None:
    """Also where the site's roster never had the peer: a roster that is newer than the plan must admit each of them."""
    gone = homes.consortium.roster.revoke("c")
    homes.homes["a"].roster_file.write_bytes(gone.to_signed(homes.consortium.signer_key))
    with pytest.raises(InputError, match=r"names c with a key that this site's roster .* does not admit"):
        pin_plan(homes.homes["a"], _written(homes, homes.plan()))
    never = homes.consortium.roster.identities() | {"ghost": "12" * 32}
    with pytest.raises((InputError, SecAggError), match="ghost"):
        pin_plan(homes.homes["b"], _written(homes, homes.plan(sites=never, privacy=_terms(4))))


def _terms(sites: int) -> dict[str, object]:
    terms = run_terms(
        replace(
            CONFIG,
            privacy=replace(CONFIG.privacy, sites=sites),
            rounds=replace(CONFIG.rounds, min_sites=sites),
        )
    )
    assert terms is not None
    return {name: value for name, value in terms.to_plain().items() if name != "mode"}


def test_a_peer_whose_certificate_has_ended_takes_no_part(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "SITE_DAYS", 0)  # ends with the second in which it is made
    content = homes.plan()
    with pytest.raises(InputError, match="certificate of a: not valid today"):
        pin_plan(homes.homes["a"], _written(homes, content))


def test_an_older_plan_never_replaces_a_newer_one(homes: Homes) -> None:
    home = homes.homes["a"]
    older, newer = homes.plan(version=3), homes.plan(version=4)
    pin_plan(home, _written(homes, newer))
    with pytest.raises(InputError, match="version 3, this site has pinned version 4"):
        pin_plan(home, _written(homes, older))
    with pytest.raises(InputError, match="an older plan is never accepted"):
        pin_plan(home, _written(homes, homes.plan(version=4, stopping="another plan of one version")))
    assert home.plan_file.read_bytes() == newer
    pin_plan(home, _written(homes, newer))  # the same again is no harm


def test_an_expired_plan_is_neither_pinned_nor_worked_under(
    homes: Homes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="the plan expired on 2020-01-01"):
        pin_plan(homes.homes["a"], _written(homes, homes.plan(expires="2020-01-01T00:00:00+00:00")))
    plan = homes.pin(homes.plan(expires="2030-01-01T00:00:00+00:00"))
    homes.run(tmp_path / "first", APP, plan=plan)
    monkeypatch.setattr(federation_plan, "utc_now", lambda: "2030-01-02T00:00:00+00:00")
    with pytest.raises(QuorumError, match="plan: it expired on 2030-01-01"):
        homes.run(tmp_path / "second", APP, plan=plan)


def test_the_seventh_run_of_a_plan_of_one_release_gets_nothing(homes: Homes, tmp_path: Path) -> None:
    """Each run is a new one to every site: new id, new keys. The plan counts what leaves under it all the same."""
    plan = homes.pin(homes.plan(answers=1))
    homes.run(tmp_path / "run0", APP, plan=plan)
    for number in range(1, 7):
        with pytest.raises(QuorumError, match="plan: this site has given the 1 answers that its pinned plan allows"):
            homes.run(tmp_path / f"run{number}", APP, plan=plan)
    assert [homes.releases(name) for name in homes.homes] == [1, 1, 1]
