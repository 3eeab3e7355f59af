"""Messages without Flower's process-wide identity, for a grid of our own in one process (simulations/engine)."""

from __future__ import annotations

import time

from flwr.app import DEFAULT_TTL, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message as make_message
from flwr.supercore.run import Run as Run

from privacy.flower.internals.codes import SUPERLINK_NODE_ID


def empty_run(run_id: int) -> Run:
    """Return the description of a run without an app."""
    return Run.create_empty(run_id)


def new_request(run_id: int, node: int, kind: str, content: RecordDict, group: str, ttl_s: float | None) -> Message:
    """Return a message from the coordinator to ``node``. ``ttl_s``: seconds it is wanted, Flower's default if None."""
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=group,
        created_at=time.time(),
        ttl=ttl_s or DEFAULT_TTL,
        message_type=kind,
    )
    return make_message(metadata=metadata, content=content)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, as Flower's own grids do: there is no setter."""
    message.metadata.__dict__["_message_id"] = message_id


def copy_with(message: Message, content: RecordDict | None) -> Message:
    """Return a message with its own copy of the metadata, and ``content``; with None, the message's error."""
    metadata = Metadata.__new__(Metadata)
    metadata.__dict__.update(message.metadata.__dict__)
    if content is None:
        return make_message(metadata=metadata, error=Error(message.error.code, message.error.reason))
    return make_message(metadata=metadata, content=content)
