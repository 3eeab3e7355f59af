"""Signed documents: JSON signed by one Ed25519 key. Rosters, plans, admissions and requests travel in this form.

``{"document": {...}, "signature": base64, "signer": hex}`` in canonical JSON and one newline. The signature covers the
kind and the canonical form of the document. So a document of one kind never passes for another kind. The form of the
whole file is fixed too, so no byte of it can change. ``signer`` is the fingerprint of the signer's public key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from shared_model.core.errors import InputError

MAX_BYTES = 1_000_000
# Whose signature counts: one key, or any of several.
Signer = ed25519.Ed25519PublicKey | Sequence[ed25519.Ed25519PublicKey]
_KIND = re.compile(r"[a-z]{1,32}")
_KEYS = {"document", "signature", "signer"}


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return the one form of a JSON object for signing and hashing: sorted keys, no blanks, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def fingerprint(public_key: ed25519.Ed25519PublicKey) -> str:
    """Return the SHA-256 of the raw public key (32 bytes), in hex."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()


def sign(kind: str, document: Mapping[str, Any], key_pem: bytes) -> bytes:
    """Sign ``document`` as a ``kind`` (lower-case word) with the Ed25519 key in ``key_pem``; return the file."""
    key = private_key(key_pem)
    signature = base64.b64encode(key.sign(_signed_bytes(kind, document))).decode()
    envelope = {"document": dict(document), "signature": signature, "signer": fingerprint(key.public_key())}
    return pack(envelope)


def pack(envelope: Mapping[str, Any]) -> bytes:
    """Return the file of a signed document that was inside another document."""
    return canonical(envelope) + b"\n"


def unpack(content: bytes) -> dict[str, Any]:
    """Return one of our signed files as a value that goes into another document: the inverse of ``pack``."""
    envelope: dict[str, Any] = json.loads(content)
    return envelope


def verify(kind: str, content: bytes, signer: Signer) -> dict[str, Any]:
    """Return the document of a signed file; InputError unless ``signer`` signed exactly this ``kind`` and bytes."""
    envelope = _envelope(kind, content)
    keys = (signer,) if isinstance(signer, ed25519.Ed25519PublicKey) else signer
    public_key = next((key for key in keys if fingerprint(key) == envelope["signer"]), None)
    if public_key is None:
        raise InputError(f"{kind}: signed by another key than expected, perhaps a retired one; ask for a newer file")
    try:
        signature = base64.b64decode(envelope["signature"], validate=True)
        # The decoder ignores four bits of the last letter. Accept only one text for each signature.
        if base64.b64encode(signature).decode() != envelope["signature"]:
            raise binascii.Error
        public_key.verify(signature, _signed_bytes(kind, envelope["document"]))
    except (InvalidSignature, binascii.Error) as error:
        raise InputError(f"{kind}: the signature does not fit; the file was changed, or is of another kind") from error
    document: dict[str, Any] = envelope["document"]
    return document


def read_unverified(kind: str, content: bytes) -> dict[str, Any]:
    """Return the document of a signed file without verifying it. Callers use it to find the key to verify it with."""
    document: dict[str, Any] = _envelope(kind, content)["document"]
    return document


def private_key(key_pem: bytes) -> ed25519.Ed25519PrivateKey:
    """Read an Ed25519 private key (PKCS8 PEM); InputError for anything else. The error quotes none of it."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError("signing key: expected an Ed25519 private key in PEM")
    return key


def _signed_bytes(kind: str, document: Mapping[str, Any]) -> bytes:
    if _KIND.fullmatch(kind) is None:
        raise ValueError(f"kind {kind!r}: expected a lower-case word")
    return f"fedkt3d:{kind}:v1\n".encode() + canonical(document)


def _envelope(kind: str, content: bytes) -> dict[str, Any]:
    """Parse a signed file. Only the newline at its end may vary, because mail programs change it."""
    if len(content) > MAX_BYTES:
        raise InputError(f"{kind}: larger than {MAX_BYTES} bytes; expected a signed document")
    body = content.rstrip(b"\r\n")
    try:
        envelope: Any = json.loads(body)
        exact = isinstance(envelope, dict) and canonical(envelope) == body
    except (ValueError, RecursionError):
        exact = False
    if not exact or set(envelope) != _KEYS or not isinstance(envelope["document"], dict):
        raise InputError(f"{kind}: not a signed document, or changed on its way; ask for the file again")
    if not all(isinstance(envelope[key], str) for key in ("signature", "signer")):
        raise InputError(f"{kind}: not a signed document; signature and signer must be text")
    checked: dict[str, Any] = envelope
    return checked
