"""Keys and secrets on disk."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from privacy.trust import identity
from shared_model.core.errors import InputError


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


def test_a_node_key_is_what_flower_reads() -> None:
    private, public = identity.new_node_key()
    key = serialization.load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    assert identity.canonical_node_key(public.rstrip() + b" comment@host\n") == public.strip()
    assert identity.new_node_key()[0] != private


def test_what_is_no_node_public_key_is_refused() -> None:
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
        with pytest.raises(InputError, match=reason.strip()):
            identity.canonical_node_key(content)


def test_a_replaced_file_is_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        identity.replace_file(tmp_path / "roster", content, 0o600)
        assert (tmp_path / "roster").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "roster").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["roster"]


def test_a_public_file_is_readable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        identity.write_public(tmp_path / "ca.crt", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca.crt").stat().st_mode) == 0o644
