"""LocalGrid: a Flower Grid over worker threads of one process, for the apps of a deployment as they are.

It copies messages as a wire would: Flower's own code serialises config and metric records. Arrays are immutable bytes,
which both sides may share. It sets none of Flower's process-wide identities, so any number of grids can run in one
process at the same time.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from privacy.flower.internals.client_task import failure
from privacy.flower.internals.envelopes import Run, copy_with, empty_run, new_request, set_message_id
from shared_model.core.errors import InputError

_FIRST_NODE_ID = 1001
_run_ids = itertools.count(1)


class NoAnswer(Exception):  # noqa: N818
    """A client app in a simulation raises it to act as a site that takes a task and never answers."""


@dataclass
class _QueuedMessage:
    message: Message
    until: float  # time.monotonic() after which nobody waits for the reply any more
    reply: Message | None = None


class LocalGrid(Grid):
    """Runs one ClientApp for many nodes in ``workers`` threads. A context manager; leaving it stops the threads.

    ``node_configs`` has one mapping a node. A worker starts no new task while ``workers + 2`` replies wait to be
    pulled, so that memory does not grow with the number of nodes. A reply whose time to live is over is thrown away.
    """

    def __init__(self, client_app: ClientApp, node_configs: Sequence[UserConfig], *, workers: int = 1) -> None:
        if workers < 1 or not node_configs:
            raise InputError(f"LocalGrid: workers {workers} and nodes {len(node_configs)} must be 1 or more")
        self._app = client_app
        self._run = empty_run(next(_run_ids))
        self._contexts = self.make_contexts(node_configs)
        self._queue: deque[_QueuedMessage] = deque()
        self._tasks: dict[str, _QueuedMessage] = {}
        self._most_waiting = workers + 2
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"site-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def make_contexts(node_configs: Sequence[UserConfig]) -> dict[int, Context]:
        """Make each node's context, by the node's id."""
        return {
            _FIRST_NODE_ID + i: Context(
                run_id=0, node_id=_FIRST_NODE_ID + i, node_config=dict(config), state=RecordDict(), run_config={}
            )
            for i, config in enumerate(node_configs)
        }

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, wait_s: float = 5.0) -> None:
        """Drop the queue and end the threads. Waits at most ``wait_s`` seconds in all for threads that are busy."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._tasks.clear()
            self._changed.notify_all()
        end = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def set_run(self, run: Run) -> None:
        """Take another run's description, as Flower's grids do."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message from this grid's own run, not from Flower's process-wide TaskIdentity."""
        return new_request(self._run.run_id, dst_node_id, message_type, content, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; in a simulation they are always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their ids."""
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            set_message_id(message, message_id)
            task = _QueuedMessage(message=_deliver(message), until=time.monotonic() + message.metadata.ttl)
            with self._changed:
                self._tasks[message_id] = task
                self._queue.append(task)
                self._changed.notify_all()
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived."""
        replies = []
        with self._changed:
            for message_id in message_ids:
                task = self._tasks.get(message_id)
                if task is not None and task.reply is not None:
                    replies.append(task.reply)
                    del self._tasks[message_id]
            if replies:
                self._changed.notify_all()
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push messages and wait for all replies, or for ``timeout`` seconds."""
        waiting = set(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (end is None or time.monotonic() < end):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            with self._changed:
                self._changed.wait(0.01)
        return replies

    def _work(self, place: int) -> None:
        while (task := self._next_task(place)) is not None:
            reply = self._answer(place, task.message)
            if reply is not None:
                set_message_id(reply, uuid.uuid4().hex)
            with self._changed:
                if reply is not None and time.monotonic() < task.until and not self._closed:
                    task.reply = reply
                else:
                    self._tasks.pop(task.message.metadata.message_id, None)
                self._changed.notify_all()

    def _next_task(self, place: int) -> _QueuedMessage | None:
        """Wait for a task that is still wanted and for room for its reply; None when the grid is closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for message_id in [key for key, task in self._tasks.items() if now >= task.until]:
                    del self._tasks[message_id]
                while self._queue and now >= self._queue[0].until:
                    self._queue.popleft()
                if sum(task.reply is not None for task in self._tasks.values()) < self._most_waiting:
                    for task in self._queue:
                        if self._fits(place, task.message):
                            self._queue.remove(task)
                            return task
                self._changed.wait(0.5)
        return None

    def _fits(self, place: int, message: Message) -> bool:
        """Whether the worker at ``place`` may take a message."""
        return True

    def _answer(self, place: int, message: Message) -> Message | None:
        return answer(self._app, message, self._contexts[message.metadata.dst_node_id])


def answer(app: ClientApp, message: Message, context: Context) -> Message | None:
    """What comes back for a message: the app's reply as a wire would carry it, an error, or nothing (NoAnswer)."""
    try:
        return _deliver(app(message, context))
    except NoAnswer:
        return None
    except (Exception, SystemExit) as error:  # what a SuperNode sends when an app fails, exception text and all
        return failure(message, f"{type(error)}:<'{error}'>")


def _deliver(message: Message) -> Message:
    """Copy a message as a wire would: the receiver shares nothing with the sender except immutable bytes."""
    if message.has_error():
        return copy_with(message, None)
    content = RecordDict()
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            content[key] = ArrayRecord({name: _array(array) for name, array in record.items()})
        elif isinstance(record, ConfigRecord):
            content[key] = ConfigRecord.inflate(record.deflate())
        else:
            content[key] = MetricRecord.inflate(record.deflate())
    return copy_with(message, content)


def _array(array: Array) -> Array:
    return Array(dtype=array.dtype, shape=tuple(array.shape), stype=array.stype, data=bytes(array.data))
