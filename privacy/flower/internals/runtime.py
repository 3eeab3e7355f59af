"""Flower's Runtime API, by which an executor takes tasks from a SuperNode or a SuperLink and reports on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flwr.common.constant import SubStatus
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient

from privacy.flower.internals.codes import TaskType
from privacy.flower.pace import overdue, until_there

ACQUIRE_TASK = "/flwr.proto.Runtime/AcquireTask"


class PromptRuntime(RuntimeHttpClient):
    """Soon asks again for a part of a message that is still on its way. Flower waits a second or more.

    It gives a part up when its time is over (privacy/flower/pace.py), and with it the message.
    """

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        """Return the part, or the last answer after a while."""
        part = until_there(partial(super().PullObject, request))
        return part if part.object_available or not overdue() else PullObjectResponse(object_found=False)


def executor_proof(secret: bytes) -> ProtobufClientInterceptor:
    """Return the proof by the installation's secret, which opens the taking of tasks."""
    return SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({ACQUIRE_TASK}))


def task_proof(token: str) -> ProtobufClientInterceptor:
    """Return the proof by a task's token, which opens what belongs to that task."""
    return RuntimeTokenHttpInterceptor(token)


@contextmanager
def runtime_client(
    address: str, proof: ProtobufClientInterceptor, name: str, certificate: Path | None, *, insists: bool = False
) -> Iterator[PromptRuntime]:
    """Give a client of the API at ``address``: inside TLS with the CA's ``certificate``, in the clear without one.

    ``name``: the component that Flower's version check is told. A client that ``insists`` retries without end.
    """
    client = PromptRuntime.from_server_address(
        server_address=address,
        insecure=certificate is None,
        root_certificates=None if certificate is None else str(certificate),
        interceptors=[RuntimeVersionHttpInterceptor(component_name=name), proof],
        retry_invoker=make_simple_http_retry_invoker() if insists else None,
    )
    try:
        yield client
    finally:
        client.close()


def take_task(client: RuntimeHttpClient, kind: str) -> str | None:
    """Ask once for a task of this kind and no other; return its token, or None without such a task.

    Raises httpx.HTTPError when the API does not answer.
    """
    answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    if not answer.HasField("task") or not answer.token or answer.task.type != kind:
        return None
    return str(answer.token)


def take_client_task(client: RuntimeHttpClient) -> str | None:
    """Ask a SuperNode for the work of a ClientApp (see `take_task`)."""
    return take_task(client, TaskType.CLIENT_APP)


def take_server_task(client: RuntimeHttpClient) -> str | None:
    """Ask a SuperLink for the work of a ServerApp (see `take_task`)."""
    return take_task(client, TaskType.SERVER_APP)


def renew_lease(client: RuntimeHttpClient) -> bool:
    """Tell the API that the client's task is worked on; False when the task is no longer ours."""
    return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)


def report_failure(client: RuntimeHttpClient, details: str) -> None:
    """Tell the API that the client's task failed. It ignores this when the task has reported its own end."""
    client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=details))
