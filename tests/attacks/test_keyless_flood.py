"""Strangers who send large bodies: nothing of them is read, so they hold no memory at the coordinator."""

import asyncio
import datetime as dt
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privacy.flower.whole_body import WholeBody
from privacy.trust.identity import canonical_node_key
from server.deployment.superlink import AdmittedNodes, Guard

PIECE = b"x" * 1_000_000


def signed_headers(key: ec.EllipticCurvePrivateKey, at: dt.datetime) -> list[tuple[bytes, bytes]]:
    """What a SuperNode sends, made here by hand."""
    time = at.isoformat().encode()
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return [
        (b"flwr-public-key", b64encode(key.public_key().public_bytes(encoding, form))),
        (b"flwr-signature", b64encode(key.sign(time, ec.ECDSA(hashes.SHA256())))),
        (b"flwr-timestamp", time),
    ]


def admitted(folder: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    openssh = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path = folder / "sites.json"
    path.write_text(json.dumps({"a": {"node_id": "1", "public_key": canonical_node_key(openssh).decode()}}))
    return path


def send(guard: Guard, headers: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Send a body of 3 MB; return status and how many bytes of it were read."""
    read, status = 0, 0

    async def receive() -> Any:
        nonlocal read
        read += len(PIECE)
        return {"type": "http.request", "body": PIECE, "more_body": read < 3 * len(PIECE)}

    async def answer(event: Any) -> None:
        nonlocal status
        status = event.get("status", status)

    scope = {"type": "http", "path": "/v1/fleet/send", "headers": headers, "server": ("127.0.0.1", 9092)}
    asyncio.run(guard(scope, receive, answer))
    return status, read


@pytest.fixture
def node() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def guarded(path: Path) -> Guard:
    async def application(_scope: Any, receive: Any, answer: Any) -> None:
        await receive()
        await answer({"type": "http.response.start", "status": 200, "headers": []})

    return Guard(WholeBody(application), 9093, b"secret", AdmittedNodes(path), WholeBody(application))


def test_nothing_of_a_keyless_body_is_read(tmp_path: Path, node: ec.EllipticCurvePrivateKey) -> None:
    """L12: before, twenty such requests held 64 MB each until they ended."""
    guard, now = guarded(admitted(tmp_path, node)), dt.datetime.now(dt.UTC)
    stranger = ec.generate_private_key(ec.SECP384R1())
    true = signed_headers(node, now)
    assert send(guard, true) == (200, 3 * len(PIECE))
    late = signed_headers(node, now - dt.timedelta(hours=1))
    forged = [true[0], signed_headers(stranger, now)[1], true[2]]
    for headers in ([], true[:2], signed_headers(stranger, now), late, forged, [*true, true[0]], [(b"a", b"b")]):
        assert send(guard, headers) == (401, 0)


def test_a_site_that_was_revoked_or_came_later_is_seen_at_once(
    tmp_path: Path, node: ec.EllipticCurvePrivateKey
) -> None:
    path = tmp_path / "sites.json"
    guard, now = guarded(path), dt.datetime.now(dt.UTC)
    assert send(guard, signed_headers(node, now)) == (401, 0)
    admitted(tmp_path, node)
    assert send(guard, signed_headers(node, now))[0] == 200
    path.write_text("{}")
    assert send(guard, signed_headers(node, now)) == (401, 0)
