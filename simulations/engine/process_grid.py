"""A LocalGrid whose sites work in processes, one for each core: the same messages, more of Python side by side.

Each worker thread hands its tasks to a process of its own and waits. A site always works in the same process, so that
what it holds in memory from one message to the next (keys of secure aggregation, patients that were read) is there.
Processes are forked before any site has worked; so torch must have one thread, and no GPU may be in use.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp

from privacy.flower.internals.client_task import failure
from privacy.flower.internals.codes import ErrorCode
from simulations.engine.local_grid import LocalGrid, answer


class ProcessGrid(LocalGrid):
    """As LocalGrid, with ``workers`` processes. Leaving it ends them.

    A site whose process ended (it was killed, or the memory ran out) has lost its connection from then on.
    """

    def __init__(self, client_app: ClientApp, node_configs: Sequence[UserConfig], *, workers: int = 1) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        contexts = self.make_contexts(node_configs)
        for place in range(workers):
            ours, theirs = fork.Pipe()
            process = fork.Process(
                target=_serve,
                args=(client_app, contexts, theirs, [*self._pipes, ours]),
                name=f"sites-{place}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._place_of = {node: number % workers for number, node in enumerate(contexts)}
        super().__init__(client_app, node_configs, workers=workers)

    def close(self, wait_s: float = 5.0) -> None:
        """Drop the queue, end the threads and the processes."""
        super().close(wait_s)
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(wait_s)
            if process.is_alive():
                process.terminate()

    def _fits(self, place: int, message: Message) -> bool:
        return self._place_of[message.metadata.dst_node_id] == place

    def _answer(self, place: int, message: Message) -> Message | None:
        try:
            self._pipes[place].send(message)
            reply: Message | None = self._pipes[place].recv()
        except (EOFError, OSError):
            return failure(message, "", ErrorCode.NODE_UNAVAILABLE)
        return reply


def _serve(app: ClientApp, contexts: Mapping[int, Context], pipe: Connection, others: Sequence[Connection]) -> None:
    """Answer messages until the other end closes. ``others``: ends that the fork copied and that are not ours."""
    for other in others:
        other.close()
    while True:
        try:
            message: Message = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        pipe.send(answer(app, message, contexts[message.metadata.dst_node_id]))
