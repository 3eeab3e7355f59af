"""Keys and secrets on disk."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from privacy.trust import identity
from shared_model.core.errors import InputError


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
