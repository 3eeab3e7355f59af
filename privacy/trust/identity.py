"""Keys and secrets on disk, and a site's Flower node key. Certificates: privacy/trust/certificates.py.

A private key is written once, with mode 0600 and never over another file (``create_file`` in
shared_model/core/files.py). It never leaves the folder of the role that made it: a site makes its own keys and hands
over the public halves alone.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared_model.core.errors import InputError

SECRET_BYTES = 32


def new_secret() -> bytes:
    """Return a fresh secret as 64 lower-case hex digits (256 bits of the operating system's randomness)."""
    return secrets.token_hex(SECRET_BYTES).encode("ascii")


def new_node_key() -> tuple[bytes, bytes]:
    """Return (private, public) of a new Flower node key: P-384 in OpenSSH form, which SuperNode and SuperLink read."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def canonical_node_key(content: bytes) -> bytes:
    """Return a site's public node key in canonical OpenSSH form without a comment; InputError if it is not one."""
    if b"PRIVATE KEY" in content:
        raise InputError("this is a private key, which must never be sent; make new keys for the site")
    try:
        key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("node key: expected an OpenSSH public key (ecdsa-sha2-nistp384 ...)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError("node key: expected a P-384 key (ecdsa-sha2-nistp384), made by `client init`")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def node_fingerprint(public_key: bytes) -> str:
    """Return the SHA-256 of a public node key in canonical OpenSSH form, in hex."""
    return hashlib.sha256(canonical_node_key(public_key)).hexdigest()


def read_input(path: Path) -> bytes:
    """Return the bytes of a file that a user named; InputError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
