"""Connections that are cut: the site does its work, and its answer never arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Message, UserConfig
from flwr.clientapp import ClientApp

from privacy.flower.internals.client_task import failure
from privacy.flower.internals.codes import ErrorCode
from simulations.engine.local_grid import LocalGrid

_DESCRIBED_WITHIN_S = 30.0
# (place of the node, round) -> whether its connection is cut while it trains.
Cut = Callable[[int, int], bool]


class CutGrid(LocalGrid):
    """A LocalGrid that loses answers to train requests, and says so as Flower does when a node has gone."""

    def __init__(
        self, client_app: ClientApp, node_configs: Sequence[UserConfig], *, workers: int = 1, cut: Cut
    ) -> None:
        super().__init__(client_app, node_configs, workers=workers)
        self._cut = cut
        self._places = {node: place for place, node in enumerate(self.get_node_ids())}
        self._asked: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their ids."""
        asked = list(messages)
        ids = list(super().push_messages(asked))
        self._asked.update(zip(ids, asked, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived, and for each that was lost that the node is gone.

        Whoever was dropped describes itself before it is asked again. That answer is waited for here, so that the next
        round has the site in every run of the same seed.
        """
        ids = list(message_ids)
        found: list[Message] = []
        end = time.monotonic() + _DESCRIBED_WITHIN_S
        told = list(super().pull_messages(ids))
        while not told and any(self._is_query(message) for message in ids) and time.monotonic() < end:
            time.sleep(0.002)
            told = list(super().pull_messages(ids))
        for reply in told:
            asked = self._asked.pop(reply.metadata.reply_to_message_id)
            about = asked.metadata
            place = self._places[about.dst_node_id]
            lost = about.message_type == "train" and self._cut(place, int(about.group_id))
            found.append(failure(asked, "", ErrorCode.NODE_UNAVAILABLE) if lost else reply)
        return found

    def _is_query(self, message_id: str) -> bool:
        asked = self._asked.get(message_id)
        return asked is not None and asked.metadata.message_type == "query"
