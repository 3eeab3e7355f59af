"""What one site checks of another site's identity key, and the digits in which people compare such keys.

An Ed25519 key of low order has signatures that anybody can make for any text, so whoever has such a key in a roster
can be anybody. Two names with one key are one site that counts twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from shared_model.core.errors import InputError

KEY_BYTES = 32
GROUPS, _GROUP_DIGITS = 8, 5
_P = 2**255 - 19
# y coordinates of the points whose order divides 8, in both forms that 255 bits allow (RFC 8032, section 5.1).
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_LOW_ORDER = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


def is_low_order(key: bytes) -> bool:
    """Return whether a raw Ed25519 public key (32 bytes) is a point of low order."""
    return (int.from_bytes(key, "little") & (2**255 - 1)) % _P in _LOW_ORDER


def check_identities(identities: Mapping[str, str]) -> None:
    """Raise InputError when two names share a key (hex), or a key is of low order. The text names the sites."""
    owners: dict[str, str] = {}
    for name, key in sorted(identities.items()):
        raw = bytes.fromhex(key)
        if len(raw) != KEY_BYTES or is_low_order(raw):
            raise InputError(f"site {name}: its identity key is of low order, so that anybody could sign as {name}")
        if key in owners:
            raise InputError(f"sites {owners[key]} and {name} have one identity key; each site needs a key of its own")
        owners[key] = name


def peer_digits(consortium: str, site: str, key: str) -> str:
    """Return 40 digits in groups of five (132 bits) for people to compare: of the consortium, the name and the key."""
    found = hashlib.sha256(f"fedkt3d:peer:v1\n{consortium}\n{site}\n{key}\n".encode()).digest()
    number = int.from_bytes(found, "big") % 10 ** (GROUPS * _GROUP_DIGITS)
    text = f"{number:0{GROUPS * _GROUP_DIGITS}d}"
    return " ".join(text[at : at + _GROUP_DIGITS] for at in range(0, len(text), _GROUP_DIGITS))
