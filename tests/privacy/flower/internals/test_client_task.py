"""One ClientApp task by Flower's own functions."""

import inspect
import signal
import threading
from typing import Any, get_type_hints

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supernode.runtime import run_clientapp

from privacy.flower.internals import client_task
from privacy.flower.internals.envelopes import new_request


class Api:
    """Stands in for the SuperNode's API: answers to heartbeats and to the report of an end."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked, self.reported = answer, threading.Event(), []  # type: ignore[var-annotated]

    def SendTaskHeartbeat(self, _request: object) -> Any:  # noqa: N802
        self.asked.set()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def PushTaskOutput(self, request: Any) -> None:  # noqa: N802
        self.reported.append((request.sub_status, request.details))


def refused(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=httpx.Request("POST", "http://x"), response=httpx.Response(code))


def test_a_task_that_the_supernode_does_not_know_interrupts_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", told.append)
    api: Any = Api(refused(401))
    with client_task.lease(api):
        assert api.asked.wait(30)
    assert told[:1] == [signal.SIGINT]


def test_a_busy_supernode_does_not_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", told.append)

    def send() -> bool:
        raise refused(503)

    assert client_task._heartbeat(send) is False
    assert told == []


def test_the_bundle_is_the_fourth_thing_that_comes_with_a_task() -> None:
    pulled = get_type_hints(run_clientapp.pull_task_input)["return"].__args__
    assert (pulled[:2], pulled[3].__name__, len(pulled)) == ((Message, Context), "Fab", 4)
    assert list(inspect.signature(run_clientapp.push_message).parameters) == ["client", "message", "context"]


def test_the_end_is_reported_without_a_text() -> None:
    api: Any = Api(None)
    client_task.push_end(api, None, succeeded=True)
    client_task.push_end(api, None, succeeded=False)
    assert api.reported == [("completed", ""), ("failed", "")]


def test_a_failure_answers_its_message() -> None:
    reply = client_task.failure(new_request(1, 5, "train", RecordDict(), "", None), "fixed text")
    assert (reply.error.code, reply.error.reason) == (2, "fixed text")
