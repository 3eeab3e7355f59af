"""The work of one ClientApp task: its lease, its message, its reply. Flower's own functions, without its bundle."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import httpx
from flwr.app import Context, Error, Message
from flwr.common.constant import SubStatus
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from privacy.flower.internals.codes import ErrorCode


@contextmanager
def lease(client: RuntimeHttpClient) -> Iterator[None]:
    """Renew the task's lease during the block.

    The process gets SIGINT when the task is no longer ours: its run ended, or its token is not known any more.
    """
    sender = HeartbeatSender(partial(_heartbeat, make_task_heartbeat_fn_http(client)))
    sender.start()
    try:
        yield
    finally:  # a heartbeat that goes on would abandon the next task instead of this one
        if sender.is_running:
            sender.stop()


def pull_message(client: RuntimeHttpClient) -> tuple[Message, Context]:
    """Return the task's message and context. The bundle that comes with them is dropped here, unread."""
    message, context, _, _ = pull_task_input(client)
    return message, context


def push_reply(client: RuntimeHttpClient, reply: Message, context: Context) -> None:
    """Hand the reply to the SuperNode, part by part."""
    push_message(client, reply, context)


def push_end(client: RuntimeHttpClient, context: Context | None, *, succeeded: bool) -> None:
    """Report the task's end. No text goes with it."""
    status = SubStatus.COMPLETED if succeeded else SubStatus.FAILED
    push_task_output(client=client, context=context, sub_status=status, details="")


def failure(message: Message, reason: str, code: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION) -> Message:
    """Return the reply that says in ``reason``, and by Flower's number, why there is no answer to ``message``."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def _heartbeat(send: Callable[[], bool]) -> bool:
    """Renew the task's lease. A SuperNode that has restarted does not know the task: then it is no longer ours."""
    try:
        return send()
    except httpx.HTTPStatusError as error:
        if error.response.status_code >= 500:
            return False
        signal.raise_signal(signal.SIGINT)
        return True
