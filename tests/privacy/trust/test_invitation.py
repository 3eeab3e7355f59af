"""Invitations and the requests that answer them: who may come in, and by which keys."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.trust import certificates, identity, signed
from privacy.trust.membership import AdmissionRequest, Invitation, check_address, code_key, new_code
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium, Site

CONSORTIUM = Consortium()
INVITATION = CONSORTIUM.invitation("north")
KEY = code_key(INVITATION.code)
SITE = Site()
REQUEST = SITE.request(INVITATION)


def test_an_invitation_reads_back_and_holds_no_private_key() -> None:
    content = INVITATION.to_json()
    assert Invitation.from_json(content) == INVITATION
    assert b"PRIVATE" not in content
    assert INVITATION.signer_key() == CONSORTIUM.signer_public


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"expires": "2020-01-01T00:00:00+00:00"}, "expired"),
        ({"expires": "2999-99-99T00:00:00+00:00"}, "expires"),
        ({"consortium": "0" * 32}, "consortium"),
        ({"site": "../north"}, "site"),
        ({"address": "https://host:1"}, "address"),
        ({"address": "host:99999"}, "HOST:PORT"),
        ({"code": "short"}, "code"),
        ({"ca": Consortium().authority.decode()}, "consortium"),
        ({"ca": CONSORTIUM.signer.decode()}, "CA"),
        ({"ca": CONSORTIUM.authority_key.decode()}, "private key"),
        ({"signer": Consortium().signer.decode()}, "not issued"),
        ({"signer": CONSORTIUM.authority.decode()}, "another name"),
    ],
)
def test_an_invitation_that_does_not_fit_together_is_refused(changes: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Invitation.from_json(replace(INVITATION, **changes).to_json())


def test_a_site_cannot_pass_as_the_signer_of_documents() -> None:
    """Site certificates come from the same CA; the name on them tells the two apart."""
    certificate = certificates.issue_site_certificate(
        CONSORTIUM.authority_key, CONSORTIUM.authority, "north", SITE.public
    )
    with pytest.raises(InputError, match="another name"):
        Invitation.from_json(replace(INVITATION, signer=certificate.decode()).to_json())


@pytest.mark.parametrize("content", [b"", b"rubbish", b"[]", b"{}", b"[" * 100_000])
def test_rubbish_is_no_invitation(content: bytes) -> None:
    with pytest.raises(InputError):
        Invitation.from_json(content)


def test_a_missing_an_unknown_and_a_newer_field_are_refused() -> None:
    raw = json.loads(INVITATION.to_json())
    for changed in ({**raw, "more": 1}, {**raw, "schema": 2}, {k: v for k, v in raw.items() if k != "code"}):
        with pytest.raises(InputError):
            Invitation.from_json(json.dumps(changed).encode())


def test_a_request_answers_its_own_invitation_alone() -> None:
    request = AdmissionRequest.read(REQUEST)
    assert (request.site, request.consortium, request.identity) == ("north", CONSORTIUM.id, SITE.public)
    assert request.node_key == SITE.node_key.strip()
    assert request.answers(KEY)
    assert not request.answers(code_key(new_code()))
    assert not request.answers(code_key(CONSORTIUM.invitation("south").code))


def test_the_code_does_not_travel() -> None:
    assert INVITATION.code.encode() not in REQUEST
    assert KEY.encode() not in REQUEST
    assert b"PRIVATE" not in REQUEST


@given(st.integers(0, len(REQUEST.rstrip()) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_in_a_request_is_refused(position: int, change: int) -> None:
    changed = bytearray(REQUEST)
    changed[position] ^= change
    with pytest.raises(InputError):
        AdmissionRequest.read(bytes(changed))


@pytest.mark.parametrize("field", ["node_key", "csr", "site", "consortium"])
def test_who_reads_a_request_on_its_way_cannot_put_keys_of_his_own_into_it(field: str) -> None:
    """The thief signs a changed copy with keys of his own; only the code that he has not got is missing."""
    thief = Site()
    document = signed.read_unverified("request", REQUEST)
    document |= {"csr": certificates.certificate_request(thief.identity_key, "north").decode()}
    if field == "node_key":
        document["node_key"] = thief.node_key.decode().strip()
    if field == "consortium":
        document["consortium"] = "0" * 32
    if field == "site":
        document["site"] = "south"
        document["csr"] = certificates.certificate_request(thief.identity_key, "south").decode()
    request = AdmissionRequest.read(signed.sign("request", document, thief.identity_key))
    assert not request.answers(KEY)


def test_a_node_key_cannot_be_claimed_by_another_identity() -> None:
    """The identity signs over the node key: swapping it in breaks the signature."""
    document = signed.read_unverified("request", REQUEST) | {"node_key": Site().node_key.decode().strip()}
    envelope = signed.unpack(REQUEST) | {"document": document}
    with pytest.raises(InputError, match="signature"):
        AdmissionRequest.read(signed.pack(envelope))


def test_a_request_with_a_private_key_or_a_weak_one_is_refused() -> None:
    document = signed.read_unverified("request", REQUEST)
    for node_key in (identity.new_node_key()[0].decode(), "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384 AAAA"):
        content = signed.sign("request", {**document, "node_key": node_key}, SITE.identity_key)
        with pytest.raises(InputError):
            AdmissionRequest.read(content)


@pytest.mark.parametrize(
    "address", ["host", "host:", "host:0", "host:65536", "u:p@host:1", "https://h:1", "h:1/x", "h :1", "h:1\n", ""]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError):
        check_address(address)


def test_addresses_that_are() -> None:
    for address in ("10.0.0.1:9092", "coordinator.example.org:443", "[::1]:9092"):
        assert check_address(address) == address
