"""Certificates: a real TLS handshake and the issuer's own signature decide, not a look at fields."""

import base64
import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.trust import certificates, signed
from shared_model.core.errors import InputError


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return certificates.new_authority("test consortium")


def handshake(folder: Path, ca: bytes, key: bytes, certificate: bytes, name: str) -> None:
    """TLS in memory between a server with the given pair and a strict client; raises what the client would."""
    (folder / "key").write_bytes(key)
    (folder / "crt").write_bytes(certificate)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "crt", folder / "key")
    client_context = ssl.create_default_context(cadata=ca.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        done = True
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                done = False
        if done:
            return
    raise AssertionError("the handshake did not end")


@pytest.mark.parametrize("name", ["coordinator.example.org", "10.1.2.3", "127.0.0.1", "localhost", "::1"])
def test_a_strict_client_accepts_the_server_by_every_name(
    tmp_path: Path, authority: tuple[bytes, bytes], name: str
) -> None:
    key, certificate = certificates.issue_server_certificate(*authority, ["coordinator.example.org", "10.1.2.3", "::1"])
    handshake(tmp_path, authority[1], key, certificate, name)


def test_another_name_and_another_authority_are_refused(tmp_path: Path, authority: tuple[bytes, bytes]) -> None:
    key, certificate = certificates.issue_server_certificate(*authority, ["10.1.2.3"])
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, authority[1], key, certificate, "10.1.2.4")
    _, stranger = certificates.new_authority("test consortium")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, stranger, key, certificate, "10.1.2.3")


@pytest.mark.parametrize("host", ["a b", "", "http://x", "ümlaut.de", "a/b"])
def test_a_host_that_is_no_host_is_bad_input(authority: tuple[bytes, bytes], host: str) -> None:
    with pytest.raises(InputError, match="host"):
        certificates.issue_server_certificate(*authority, [host])


def test_only_a_ca_certificate_passes_as_authority(authority: tuple[bytes, bytes]) -> None:
    key, leaf = certificates.issue_server_certificate(*authority, ["10.0.0.1"])
    assert certificates.check_authority(authority[1]) == authority[1]
    for reason, content in {"not a CA": leaf, "private key": key, "PEM": b"rubbish"}.items():
        with pytest.raises(InputError, match=reason):
            certificates.check_authority(content)


def test_a_site_certificate_is_for_one_name_one_key_and_ninety_days(authority: tuple[bytes, bytes]) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    made = certificates.issue_site_certificate(*authority, "north", key)
    assert certificates.check_issued(made, authority[1], "north") == key
    left = certificates.expires(made) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=89) < left <= dt.timedelta(days=90)
    with pytest.raises(InputError, match="another name"):
        certificates.check_issued(made, authority[1], "south")
    with pytest.raises(InputError, match="not issued"):
        certificates.check_issued(made, certificates.new_authority("test consortium")[1], "north")


def test_a_certificate_that_has_ended_is_refused(
    authority: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "SITE_DAYS", -1)
    monkeypatch.setattr(certificates, "CLOCK_SKEW", dt.timedelta(days=2))
    made = certificates.issue_site_certificate(*authority, "north", ed25519.Ed25519PrivateKey.generate().public_key())
    with pytest.raises(InputError, match="not valid today"):
        certificates.check_issued(made, authority[1], "north")


def test_a_site_cannot_certify_another(authority: tuple[bytes, bytes]) -> None:
    site_key = certificates.new_signing_key()
    public = signed.private_key(site_key).public_key()
    certificate = certificates.issue_site_certificate(*authority, "north", public)
    with pytest.raises(InputError, match="CA's key"):
        certificates.issue_site_certificate(site_key, certificate, "south", public)
    with pytest.raises(InputError, match="CA's key"):
        certificates.issue_site_certificate(certificates.new_authority("x")[0], authority[1], "south", public)


def test_a_request_is_for_its_own_name_and_kind_of_key() -> None:
    key = certificates.new_signing_key()
    request = certificates.certificate_request(key, "north")
    assert certificates.read_certificate_request(request, "north") == signed.private_key(key).public_key()
    for content, site in ((request, "south"), (b"rubbish", "north")):
        with pytest.raises(InputError, match="certificate request"):
            certificates.read_certificate_request(content, site)


def with_version(pem: bytes, before: bytes, after: bytes) -> bytes:
    """The PEM with the first such bytes of its DER changed."""
    first, *middle, last = pem.strip().splitlines()
    der = base64.b64decode(b"".join(middle))
    assert before in der[:20]
    return b"\n".join([first, base64.b64encode(der.replace(before, after, 1)), last, b""])


def test_another_version_of_the_format_is_refused(authority: tuple[bytes, bytes]) -> None:
    request = certificates.certificate_request(certificates.new_signing_key(), "north")
    with pytest.raises(InputError, match="certificate request"):
        certificates.read_certificate_request(with_version(request, b"\x02\x01\x00", b"\x02\x01\x0c"), "north")
    with pytest.raises(InputError, match="expected one certificate"):
        certificates.check_authority(with_version(authority[1], b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0c"))
