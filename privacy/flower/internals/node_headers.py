"""The headers by which a SuperNode shows its key, checked before anything of a request's body is read.

Flower checks the same headers, but only after it has read and parsed the whole body.
"""

from __future__ import annotations

import binascii
import datetime as dt
from base64 import b64decode
from collections.abc import Iterable

from cryptography.hazmat.primitives import serialization
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

_NAMES = (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)


def signing_node(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the node key (canonical OpenSSH form) that signed the time in the headers, within Flower's tolerance.

    None where a header is missing, twice there or malformed, the time is off, or the signature does not fit.
    """
    given = [(name.decode("latin-1").lower(), value) for name, value in headers]
    found = {name: [value for other, value in given if other == name] for name in _NAMES}
    if any(len(values) != 1 for values in found.values()):
        return None
    public, signature, time = (found[name][0] for name in _NAMES)
    try:
        age = (now() - dt.datetime.fromisoformat(time.decode("ascii"))).total_seconds()
        key = bytes_to_public_key(b64decode(public, validate=True))
        fits = -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE and verify_signature(
            key, time, b64decode(signature, validate=True)
        )
        openssh = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return openssh if fits else None
    except (ValueError, TypeError, UnicodeError, binascii.Error):
        return None
