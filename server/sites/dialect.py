"""Speak to each site in its own version of the message schema, and to one copy of it alone.

A Grid between the run and Flower's. Each request gets its site's head: the newest schema that the site understands,
which start of its node is meant, and the newest record of the site's ledger that was ever seen here. A site refuses
what is meant for another copy of its home, or for a home with a newer ledger than its own (client/gate/gates.py). So
neither a copied home nor one restored from an older backup takes part unnoticed.

`state/ledgers.json` in the coordinator's folder keeps the ledgers' hashes, by site. A hash tells nothing of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from privacy.flower.processes import read_state
from privacy.wire.heads import INSTANCE, LEDGER, OLDEST_SCHEMA, REQUEST_HEAD, SCHEMA, SEEN, newer_rules
from server.record.public_log import PublicLog
from server.sites.attendance import Register
from shared_model.core.files import ORDINARY, write_json

FILE = "ledgers.json"


class DialectGrid(Grid):
    """``grid`` with each message in its site's schema. ``ledgers``: the file of the ledgers' hashes, or None.

    ``log``: the transparency log, of which each request brings its site what is new there.
    """

    def __init__(self, grid: Grid, register: Register, ledgers: Path | None, log: PublicLog | None = None) -> None:
        self._grid, self._register, self._file, self._log = grid, register, ledgers, log
        self._seen: dict[int, int] = {}
        self._schemas: dict[int, int] = {}
        self._instances: dict[int, str] = {}
        self._ledgers: dict[str, str] = {} if ledgers is None else read_state(ledgers)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message whose head is the site's own; the other records are shared with all sites."""
        head = content.get("head")
        if isinstance(head, ConfigRecord):
            content = RecordDict({**content, "head": self._head(dst_node_id, dict(head))})
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def _head(self, node: int, head: dict[str, Any]) -> ConfigRecord:
        head["schema"] = self._schemas.get(node, SCHEMA)
        newer = newer_rules("request", head["schema"])
        head = {key: value for key, value in head.items() if key in newer or key in REQUEST_HEAD}
        if "receipt" in newer and self._log is not None and node in self._seen:
            head["receipt"] = self._log.receipt(self._seen[node])
        if "ledger" not in newer:
            return ConfigRecord(head)
        # Whoever is asked to describe itself may be a new start of the node.
        head["instance"] = "" if head["kind"] == "describe" else self._instances.get(node, "")
        head["ledger"] = self._ledgers.get(self._register.name(node), "")
        return ConfigRecord(head)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies, and note what their heads say of their nodes."""
        for message in self._grid.pull_messages(message_ids):
            if message.has_content():
                head = message.content.get("head")
                if isinstance(head, ConfigRecord):
                    self._note(message.metadata.src_node_id, head)
            yield message

    def _note(self, node: int, head: ConfigRecord) -> None:
        if head.get("refusal") == "schema" and self._schemas.get(node, SCHEMA) > OLDEST_SCHEMA:
            self._schemas[node] = self._schemas.get(node, SCHEMA) - 1
        instance, ledger = head.get("instance", ""), head.get("ledger", "")
        if head.get("kind") == "describe" and "refusal" not in head and INSTANCE.accepts(instance):
            self._instances[node] = str(instance)
        if "refusal" in head:
            self._seen.pop(node, None)  # perhaps the receipt was not what it needed: it tells what it has seen first
        elif SEEN.accepts(head.get("seen")):
            self._seen[node] = int(head["seen"])  # type: ignore[arg-type]
        name = self._register.name(node)
        if name and ledger and LEDGER.accepts(ledger) and self._ledgers.get(name) != ledger:
            self._ledgers[name] = str(ledger)
            if self._file is not None:
                write_json(self._file, self._ledgers, ORDINARY)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages."""
        return self._grid.push_messages(messages)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are online."""
        return self._grid.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push messages and wait for their replies."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def get_nodes(self) -> Iterable[Any]:
        """Return what the SuperLink says of the nodes that are online."""
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run that the grid works for."""
        return self._grid.run
