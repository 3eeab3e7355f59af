"""Flower's Fleet API, by which a SuperNode talks to the coordinator: its requests seen, and a node signed off."""

from __future__ import annotations

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall as ProtobufCall
from flwr.supercore.protobuf.client import ProtobufClientInterceptor as ProtobufClientInterceptor
from flwr.supercore.protobuf.client import ProtobufRequestContext as ProtobufRequestContext
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

# The last part of a request's path names the call.
HEARTBEAT, ACTIVATE, DEACTIVATE = "send-node-heartbeat", "activate-node", "deactivate-node"
PULL, PULL_OBJECT, CONFIRM = "pull-messages", "pull-object", "confirm-message-received"


def call_of(context: ProtobufRequestContext) -> str:
    """Return the name of a request's call."""
    return context.request.url.path.rpartition("/")[2]


def activated_node(response: httpx.Response) -> int:
    """Return the node's id from the answer to ACTIVATE."""
    return int(ActivateNodeResponse.FromString(response.read()).node_id)


def deactivate_node(
    address: str, certificate: str, key: ec.EllipticCurvePrivateKey, node_id: int, watch: ProtobufClientInterceptor
) -> bool:
    """Tell the coordinator that a node left; False when it does not know the node. ``watch`` sees the request.

    KeyboardInterrupt, from Flower, when the coordinator does not accept the key.
    """
    interceptors = [watch, RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(key, key.public_key())]
    with FleetHttpClient.from_server_address(address, False, certificate, interceptors) as client:
        try:
            make_simple_http_retry_invoker().invoke(client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))
        except (httpx.HTTPError, RunNotRunningException):
            return False
    return True
