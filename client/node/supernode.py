"""Flower's SuperNode as a child of `client start`: it ends with its parent, and whenever it cannot go on.

Run as `python -m client.node.supernode HOME ADDRESS`; its runtime API listens on ADDRESS for our executor. The
SuperNode only fetches messages and hands them to that API: nothing that a coordinator ships is imported in this process
either (in process isolation it reads the bundle's pyproject.toml as data and keeps the rest as bytes).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode import main as supernode_api
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.node.fleet_watch import LOST, FleetWatch
from client.site.home import ClientHome
from privacy.flower.pace import pause_s, until_there
from privacy.flower.processes import end_with_parent
from privacy.flower.whole_body import WholeBody

# How long a node stays away after it has left. The coordinator's run polls four times a second; when it finds that a
# node is away, it no longer expects an answer.
RELEASE_S = 5.0

_log = logging.getLogger("client.node.supernode")


def flags(home: ClientHome, address: str) -> list[str]:
    """Return the command line for Flower's own parser, the one supported way to configure a SuperNode."""
    host, _, port = address.rpartition(":")
    return [
        *("--superlink", home.server, "--root-certificates", str(home.ca_certificate)),
        *("--auth-supernode-private-key", str(home.node_key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.secret)),
        *("--host", host, "--port", port),
    ]


def release(home: ClientHome, watch: FleetWatch) -> None:
    """Tell the coordinator that this node's message is lost, if an earlier SuperNode ended without saying so.

    Otherwise the coordinator would take the returning node for the one that left, and wait for its answer.
    """
    if watch.released or watch.node_id is None:
        return
    key = load_ssh_private_key(home.node_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # made by `client init`
    auth: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, key.public_key()),
    ]
    with FleetHttpClient.from_server_address(home.server, False, str(home.ca_certificate), [watch, *auth]) as client:
        request = DeactivateNodeRequest(node_id=watch.node_id)
        try:
            make_simple_http_retry_invoker().invoke(client.DeactivateNode, request)
        except (httpx.HTTPError, RunNotRunningException):  # the coordinator does not know this node: nothing to release
            return
    time.sleep(RELEASE_S)


def watch_requests(watch: FleetWatch) -> None:
    """Put ``watch`` before every request of Flower's SuperNode; soon ask again for parts that are on their way."""

    class Watched(FleetHttpClient):
        def __init__(self, base_url: str, *, interceptors: Any = (), **rest: Any) -> None:
            super().__init__(base_url, interceptors=(watch, *interceptors), **rest)

        def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
            return until_there(partial(super().PullObject, request))

    fleet_http_connection.FleetHttpClient = Watched  # type: ignore[attr-defined]


def read_bodies_whole() -> None:
    """Put privacy/flower/whole_body.py in front of the API that the executor talks to."""
    create_app = supernode_api.create_app

    def create(*arguments: Any, **options: Any) -> WholeBody:
        return WholeBody(create_app(*arguments, **options))

    supernode_api.create_app = create  # type: ignore[assignment]


def shorten_pauses(watch: FleetWatch) -> None:
    """Shorten the pauses of Flower's main loop by how lately it worked; none is longer than the loop asks for."""

    class Pauses:
        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(pause_s(watch.idle_s(), longest_s=seconds))

    start_client_internal.time = Pauses  # type: ignore[attr-defined, assignment]


def _end(failed: threading.ExceptHookArgs) -> None:
    """End the process when a thread dies: Flower would go on without heartbeats."""
    _log.error("a thread of the SuperNode ended (%s)", failed.exc_type.__name__)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run flower-supernode for the site's folder in the first argument, at the address in the second."""
    os.umask(0o077)
    end_with_parent()
    threading.excepthook = _end
    home = ClientHome.load(Path(sys.argv[1]))
    watch = FleetWatch(home.state("supernode"))
    code: object = LOST  # Flower's main loop ends silently when it cannot go on
    try:
        release(home, watch)
        watch_requests(watch)
        shorten_pauses(watch)
        read_bodies_whole()
        sys.argv = ["flower-supernode", *flags(home, sys.argv[2])]
        flower_supernode()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # from Flower's own threads: the coordinator does not accept this site's key
        code = LOST
    # Flower's HTTP server may run in a thread that would keep the process alive.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
