"""Keys and certificates: a real TLS handshake decides, not a look at fields."""

import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from privacy import identity
from shared_model.errors import InputError


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return identity.new_authority("test consortium")


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
    key, certificate = identity.issue_server_certificate(*authority, ["coordinator.example.org", "10.1.2.3", "::1"])
    handshake(tmp_path, authority[1], key, certificate, name)


def test_another_name_and_another_authority_are_refused(tmp_path: Path, authority: tuple[bytes, bytes]) -> None:
    key, certificate = identity.issue_server_certificate(*authority, ["10.1.2.3"])
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, authority[1], key, certificate, "10.1.2.4")
    _, stranger = identity.new_authority("test consortium")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, stranger, key, certificate, "10.1.2.3")


@pytest.mark.parametrize("host", ["a b", "", "http://x", "ümlaut.de", "a/b"])
def test_a_host_that_is_no_host_is_bad_input(authority: tuple[bytes, bytes], host: str) -> None:
    with pytest.raises(InputError, match="host"):
        identity.issue_server_certificate(*authority, [host])


def test_private_files_are_0600_and_never_overwritten(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        identity.write_private(tmp_path / "key", b"one")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(InputError, match="exists already"):
        identity.write_private(tmp_path / "key", b"two")
    assert (tmp_path / "key").read_bytes() == b"one"


def test_a_node_key_is_what_flower_reads(tmp_path: Path) -> None:
    private, public = identity.new_node_key()
    key = serialization.load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    (tmp_path / "a.pub").write_bytes(public.rstrip() + b" comment@host\n")
    assert identity.read_node_public_key(tmp_path / "a.pub") == public.strip()
    assert identity.new_node_key()[0] != private


def test_what_is_no_node_public_key_is_refused(tmp_path: Path) -> None:
    private, _ = identity.new_node_key()
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    smaller = ec.generate_private_key(ec.SECP256R1()).public_key()
    openssh = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    contents = {
        "private key": private,
        "P-384": other.public_bytes(*openssh),
        "P-384 ": smaller.public_bytes(*openssh),
        "OpenSSH": b"rubbish",
    }
    for reason, content in contents.items():
        (tmp_path / "x.pub").write_bytes(content)
        with pytest.raises(InputError, match=reason.strip()):
            identity.read_node_public_key(tmp_path / "x.pub")
    with pytest.raises(InputError, match="cannot be read"):
        identity.read_node_public_key(tmp_path / "missing.pub")


def test_only_a_ca_certificate_passes_as_authority(tmp_path: Path, authority: tuple[bytes, bytes]) -> None:
    key, leaf = identity.issue_server_certificate(*authority, ["10.0.0.1"])
    (tmp_path / "ca").write_bytes(authority[1])
    assert identity.read_authority(tmp_path / "ca") == authority[1]
    for reason, content in {"no CA": leaf, "private key": key, "PEM": b"rubbish"}.items():
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            identity.read_authority(tmp_path / "x")


def test_a_public_file_is_readable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        identity.write_public(tmp_path / "ca.crt", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca.crt").stat().st_mode) == 0o644
