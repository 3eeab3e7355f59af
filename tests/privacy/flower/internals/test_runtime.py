"""The Runtime API of a real SuperLink: who may take a task, and what a token that it does not know brings."""

import time
from functools import partial

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_objects
from flwr.supercore.runtime import RuntimeHttpClient

from privacy.flower.internals import runtime
from privacy.flower.pace import parts_until
from server.deployment.home import ServerHome


def test_the_secret_opens_the_taking_of_tasks(superlink: ServerHome) -> None:
    secret = superlink.secret("superexec").read_bytes()
    client = partial(runtime.runtime_client, superlink.control_address, certificate=superlink.ca_certificate)
    with client(runtime.executor_proof(secret), name="SuperExec") as poll:
        assert runtime.take_server_task(poll) is None  # there is no run
        assert runtime.take_client_task(poll) is None
    with client(runtime.executor_proof(b"0" * len(secret)), name="SuperExec") as poll:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            runtime.take_server_task(poll)
        assert refused.value.response.status_code == 401


def test_an_unknown_token_renews_and_reports_nothing(superlink: ServerHome) -> None:
    proof = runtime.task_proof("unknown")
    with runtime.runtime_client(superlink.control_address, proof, "SuperExec", superlink.ca_certificate) as client:
        for call in (runtime.renew_lease, partial(runtime.report_failure, details="it ended")):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                call(client)
            assert 400 <= refused.value.response.status_code < 500


def test_a_part_that_is_on_its_way_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [PullObjectResponse(object_found=True), PullObjectResponse(object_found=True, object_available=True)]
    monkeypatch.setattr(RuntimeHttpClient, "PullObject", lambda self, request: answers.pop(0))
    with runtime.runtime_client("127.0.0.1:9", runtime.task_proof("x"), "flwr-clientapp", None, insists=True) as client:
        assert client.PullObject(PullObjectRequest()).object_available
    assert not answers


def test_a_message_whose_parts_never_come_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sender was killed while it sent. Flower alone would go on for three minutes, and read nobody else."""
    there = PullObjectResponse(object_found=True, object_available=True, object_content=b"x")
    never = PullObjectResponse(object_found=True)
    monkeypatch.setattr(
        RuntimeHttpClient, "PullObject", lambda self, request: there if request.object_id == "there" else never
    )
    with runtime.runtime_client("127.0.0.1:9", runtime.task_proof("x"), "flwr-serverapp", None, insists=True) as client:
        pull = make_pull_object_fn_protobuf(client.PullObject, node=Node(node_id=1), run_id=1)
        with parts_until(time.monotonic() + 0.2), pytest.raises(ObjectPullError):
            pull_objects(["there", "never"], pull)
        with parts_until(time.monotonic() - 1.0):
            assert pull_objects(["there"], pull) == {"there": b"x"}  # what is there is read however late
