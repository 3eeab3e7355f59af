"""One exchange with the sites over Flower's Grid: push, poll, judge. It knows nothing about models or sums.

Every answer is yielded as it arrives: a Reply that fits the request, or a Drop that names the site and the reason.
Error texts from a site are never passed on, because they may quote a patient's record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from privacy.flower.internals.codes import ErrorCode
from privacy.flower.pace import parts_until, pause_s
from privacy.secagg.layout import Packed
from privacy.wire.messages import MESSAGE_TYPES, SITE_STOPS, Reply, parse_reply, wire_bytes
from server.record.history import Drop
from server.sites.patience import call_again
from shared_model.core.fields import MessageError

_LOG = logging.getLogger("fedkt3d.server")

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.25
# An answer that came in part is given up this long before the deadline (or a tenth of the time before, if that is
# less): whole answers that wait behind it are read in time.
_LAST_PARTS_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Result of one request: a reply that fits, or the reason why there is none."""

    node: int
    site: str
    reply: Reply | None = None
    drop: Drop | None = None
    wire_bytes: int = 0
    # A signed complaint that came with a refusal (privacy/secagg/messages.py).
    complaint: Packed | None = None


@dataclass(frozen=True, kw_only=True)
class _Sent:
    node: int
    site: str
    until: float  # time.monotonic()
    parts_until: float  # likewise


class Pause:
    """The wait between two polls: none while answers arrive, then longer and longer, up to a quarter second."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def after(self, *, progress: bool) -> None:
        """Sleep after a poll. ``progress``: whether that poll brought answers; then do not sleep."""
        now = time.monotonic()
        if progress:
            self._since = now
            return
        time.sleep(pause_s(now - self._since, _LONGEST_PAUSE_S, _SHORTEST_PAUSE_S))


class Exchange:
    """Requests of one kind and round. Times are monotonic: setting the clock does not move a deadline."""

    def __init__(self, grid: Grid, *, kind: str, round_number: int, run_id: str) -> None:
        self._grid = grid
        self._kind, self._round, self._run_id = kind, round_number, run_id
        self._pending: dict[str, _Sent] = {}
        self._answered: dict[str, _Sent] = {}

    @property
    def waiting_for(self) -> set[int]:
        """Nodes that have not answered yet."""
        return {sent.node for sent in self._pending.values()}

    def send(self, content: RecordDict, nodes: Mapping[int, str], ttl_s: float) -> list[Answer]:
        """Push one content to the nodes (node id -> site name). Return those that could not be reached at all."""
        return self.send_each(dict.fromkeys(nodes, content), nodes, ttl_s)

    def send_each(self, contents: Mapping[int, RecordDict], nodes: Mapping[int, str], ttl_s: float) -> list[Answer]:
        """Push each node's own content to it; otherwise like ``send``."""
        if not nodes:
            return []
        messages = [
            self._grid.create_message(contents[node], MESSAGE_TYPES[self._kind], node, str(self._round), ttl_s)
            for node in nodes
        ]
        # If the same messages are pushed again, their ids are the same, and the SuperLink stores each once.
        ids: list[str | None] = [*call_again(lambda: self._grid.push_messages(messages), "sending a request", ttl_s)]
        ids += [None] * (len(messages) - len(ids))
        until = time.monotonic() + ttl_s
        last_parts = until - min(_LAST_PARTS_S, ttl_s / 10)
        failed = []
        for message_id, (node, site) in zip(ids, nodes.items(), strict=True):
            if message_id:
                self._pending[message_id] = _Sent(node=node, site=site, until=until, parts_until=last_parts)
            else:
                failed.append(_drop(node, site, "error", "the request could not be sent"))
        return failed

    def poll(self) -> Iterator[Answer]:
        """Yield what has arrived, without waiting.

        It pulls one site at a time, so memory holds one vector. And when Flower cannot read an answer, it loses all
        answers pulled before it.
        """
        for message_id, sent in list(self._pending.items()):
            try:
                with parts_until(sent.parts_until):
                    messages = list(self._grid.pull_messages([message_id]))
            except httpx.HTTPError:  # the SuperLink fails now and then; the next poll asks again, up to the deadline
                return
            except Exception as error:  # Flower unpacks what the site packed, and raises anything; its text is foreign
                _LOG.warning("an answer could not be unpacked (%s)", type(error).__name__)
                del self._pending[message_id]
                yield _drop(sent.node, sent.site, "schema", "the answer cannot be unpacked")
                continue
            while messages:
                yield from self._receive(messages.pop(0))

    def _receive(self, message: Message) -> Iterator[Answer]:
        message_id = message.metadata.reply_to_message_id
        sent = self._pending.pop(message_id, None)
        if sent is not None:
            self._answered[message_id] = sent
            yield self._judge(message, sent)
        elif message_id in self._answered:
            again = self._answered[message_id]
            yield _drop(again.node, again.site, "duplicate", "only the first answer counts")

    def answers(self) -> Iterator[Answer]:
        """Yield answers as they arrive, until all are in or time is over. Then yield a drop for each missing answer."""
        pause = Pause()
        while self._pending:
            before = len(self._pending)
            yield from self.poll()
            yield from self.expire()
            pause.after(progress=len(self._pending) < before)

    def expire(self) -> list[Answer]:
        """Give up the requests whose time is over, and return their drops."""
        now = time.monotonic()
        late = [message_id for message_id, sent in self._pending.items() if now >= sent.until]
        gone = [self._pending.pop(message_id) for message_id in late]
        if not gone:
            return []
        here = connected_nodes(self._grid)
        return [_drop(s.node, s.site, "timeout" if s.node in here else "disconnected", "") for s in gone]

    def _judge(self, message: Message, sent: _Sent) -> Answer:
        if not message.has_content():
            return _drop(sent.node, sent.site, *_flower_error(message.error if message.has_error() else None))
        size = wire_bytes(message.content)
        try:
            reply = parse_reply(message.content)
        except MessageError as error:  # we wrote its text; it quotes nothing from the site
            return _drop(sent.node, sent.site, "schema", str(error), size)
        if reply.refusal is not None:
            site = sent.site if self._kind != "describe" else reply.site or sent.site
            detail = reply.refusal.code + (f": {reply.refusal.text}" if reply.refusal.text else "")
            return replace(_drop(sent.node, site, "refused", detail, size), complaint=reply.secure)
        fits = (reply.run_id, reply.kind, reply.round) == (self._run_id, self._kind, self._round)
        if not fits or (self._kind != "describe" and reply.site != sent.site):
            return _drop(sent.node, sent.site, "wrong_round", f"expected {self._kind} of round {self._round}", size)
        return Answer(node=sent.node, site=reply.site, reply=reply, wire_bytes=size)


def connected_nodes(grid: Grid) -> set[int]:
    """Return the nodes that the SuperLink reports as online now."""
    return set(call_again(lambda: list(grid.get_node_ids()), "listing the sites"))


def _flower_error(error: Error | None) -> tuple[str, str]:
    """Return (reason, detail) of an error that came instead of an answer. Its text is only compared, never quoted."""
    if error is None:
        return "error", "an empty answer"
    if error.reason == SITE_STOPS:
        return "stopped", ""
    if error.code in (ErrorCode.NODE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE):
        return "disconnected", ""
    if error.code == ErrorCode.MESSAGE_UNAVAILABLE:
        return "timeout", ""
    return "error", f"Flower error {int(error.code)}"


def _drop(node: int, site: str, reason: str, detail: str, size: int = 0) -> Answer:
    return Answer(node=node, site=site, drop=Drop(site=site, reason=reason, detail=detail), wire_bytes=size)
