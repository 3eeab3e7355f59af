"""Processes that are killed (SIGKILL): the coordinator's, which is started again, and a site's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from privacy.wire.messages import parse_request
from server.record.events import Event, Listener
from shared_model.core.errors import FedKT3DError
from simulations.engine.faults import site_of


def kill_coordinator(federate: Callable[[Listener], object], round_number: int) -> None:
    """Run ``federate`` in a process that kills itself when the first site of the round has answered.

    FedKT3DError if that process ends in another way.
    """

    def kill(event: Event) -> None:
        if event.kind == "site_done" and event.round == round_number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            federate(kill)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        raise FedKT3DError("faults: the coordinator's process ended before it could be killed")


def killed_in(inner: ClientApp, site: str, round_number: int) -> ClientApp:
    """Wrap the sites' app so that the process of ``site`` is killed when the site is asked to train in that round.

    For a grid in which each site has a process of its own (ProcessGrid).
    """
    coordinator = os.getpid()

    def answer(message: Message, context: Context) -> Message:
        asked = parse_request(message.content)
        if asked.kind == "train" and asked.round == round_number and site_of(context) == site:
            if os.getpid() == coordinator:
                raise FedKT3DError("faults: a site in the coordinator's own process cannot be killed alone")
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(message, context)

    app = ClientApp()
    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    return app
