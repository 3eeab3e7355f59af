"""The headers that Flower's own signing interceptor writes are those that we check, and no others pass."""

import datetime as dt
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privacy.flower.internals.node_headers import signing_node

KEY = ec.generate_private_key(ec.SECP384R1())


def headers(at: dt.datetime, **changes: bytes) -> list[tuple[bytes, bytes]]:
    time = at.isoformat().encode()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    values = {"public-key": b64encode(public), "signature": b64encode(KEY.sign(time, ec.ECDSA(hashes.SHA256())))}
    values |= {"timestamp": time, **changes}
    return [(f"flwr-{name}".encode(), value) for name, value in values.items()]


def test_a_signed_time_names_its_key() -> None:
    openssh = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    assert signing_node(headers(dt.datetime.now(dt.UTC))) == openssh


@pytest.mark.parametrize(
    "given",
    [
        [],
        headers(dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        headers(dt.datetime.now(dt.UTC), signature=b64encode(b"none")),
        headers(dt.datetime.now(dt.UTC))[:2],
        headers(dt.datetime.now(dt.UTC)) * 2,
    ],
)
def test_nothing_else_does(given: list[tuple[bytes, bytes]]) -> None:
    assert signing_node(given) is None
