"""The note of a site that leaves. The site's identity key signs it, so nobody else can get the site revoked by mail."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.trust import signed
from privacy.trust.roster import utc_now
from shared_model.core.errors import InputError

KIND = "leave"


def leave_note(consortium: str, site: str, identity_key: bytes) -> bytes:
    """Return the note that a site leaves, signed with its private identity key (PEM)."""
    return signed.sign(KIND, {"schema": 1, "consortium": consortium, "site": site, "left": utc_now()}, identity_key)


def check_leave_note(content: bytes, consortium: str, site: str, identity_hex: str) -> str:
    """Return when the site left; InputError unless the site's identity key in the roster signed this note for us."""
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity_hex))
    document = signed.verify(KIND, content, key)
    if (document.get("schema"), document.get("consortium"), document.get("site")) != (1, consortium, site):
        raise InputError(f"{KIND}: not the note of {site} for this consortium")
    return str(document.get("left", ""))
