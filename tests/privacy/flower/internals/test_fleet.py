"""The Fleet API of a real SuperLink, as a node sees it that the coordinator does not know."""

import datetime as dt
import json
import signal
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeResponse

from privacy.flower.internals import fleet
from privacy.trust.identity import canonical_node_key, new_node_key
from server.deployment.control import Control
from server.deployment.home import ServerHome


class Watch:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def intercept(self, context: fleet.ProtobufRequestContext, call_next: fleet.ProtobufCall) -> httpx.Response:
        response = call_next(context)
        self.seen.append((fleet.call_of(context), response.status_code))
        return response


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a process of its own: a worker of pytest-xdist ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signed_headers(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """What a SuperNode shows with each request, made here by hand."""
    time = dt.datetime.now(dt.UTC).isoformat()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(time.encode(), ec.ECDSA(hashes.SHA256()))
    shown = {"flwr-public-key": public, "flwr-signature": signature}
    return {**{name: b64encode(value).decode() for name, value in shown.items()}, "flwr-timestamp": time}


def admit(superlink: ServerHome, public: bytes, node_id: int) -> None:
    """Let a node through the coordinator's own guard."""
    site = {"node_id": str(node_id), "public_key": canonical_node_key(public).decode()}
    superlink.sites_file.write_text(json.dumps({"a": site}))


@pytest.mark.usefixtures("interruptible")
def test_a_key_that_the_coordinator_does_not_accept_interrupts_the_process(superlink: ServerHome) -> None:
    watch = Watch()
    key = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(KeyboardInterrupt):  # Flower's own way: client/node/supernode.py waits for it
        fleet.deactivate_node(superlink.address, str(superlink.ca_certificate), key, 12345, watch)
    assert watch.seen == [(fleet.DEACTIVATE, 401)]


def test_a_registered_nodes_key_proves_who_asks(superlink: ServerHome, tmp_path: Path) -> None:
    private, public = new_node_key()
    (tmp_path / "node.pub").write_bytes(public)
    node_id = int(Control(superlink).register(tmp_path / "node.pub"))
    admit(superlink, public, node_id)
    key = load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    watch = Watch()
    fleet.deactivate_node(superlink.address, str(superlink.ca_certificate), key, node_id, watch)
    assert watch.seen == [(fleet.DEACTIVATE, 412)]  # let in, but the node was never active


def test_the_nodes_id_is_read_from_the_answer() -> None:
    content = ActivateNodeResponse(node_id=2**64 - 3).SerializeToString()
    assert fleet.activated_node(httpx.Response(200, content=content)) == 2**64 - 3


@pytest.mark.parametrize(
    "call", [fleet.HEARTBEAT, fleet.ACTIVATE, fleet.DEACTIVATE, fleet.PULL, fleet.PULL_OBJECT, fleet.CONFIRM]
)
def test_each_call_is_one_that_the_superlink_serves(superlink: ServerHome, call: str) -> None:
    import ssl

    context = ssl.create_default_context(cafile=str(superlink.ca_certificate))
    private, public = new_node_key()
    admit(superlink, public, 1)
    key = load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    url, shown = f"https://{superlink.address}/v1/fleet/{call}", signed_headers(key)
    assert httpx.post(url, verify=context, trust_env=False, headers=shown).status_code not in (404, 405)
    assert httpx.post(f"{url}-not", verify=context, trust_env=False, headers=shown).status_code == 404


def test_faults_pass_or_end_the_supernode_as_the_watch_expects() -> None:
    """client/node/fleet_watch.py turns a 500 into a 503 and a cut handshake into a lost connection."""
    import inspect

    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection

    assert "if exc.response.status_code in (502, 503, 504)" in inspect.getsource(fleet_http_connection)
    retry = inspect.getsource(http_retry)
    assert '("certificate", "ssl", "tls")' in retry
    assert "INTERNAL_SERVER_ERROR" not in retry
