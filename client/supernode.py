"""Flower's SuperNode as a child of `client start`: it ends with its parent and says whether it is connected.

Run as `python -m client.supernode STATE FLAGS...`; FLAGS are those of flower-supernode. The SuperNode only fetches
messages and hands them to the local runtime API: nothing that a coordinator ships is imported in this process either
(in process isolation it reads the bundle's pyproject.toml as data and keeps the rest as bytes).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from privacy.processes import end_with_parent, write_state


class ConnectionWatch(logging.Handler):
    """Follow Flower's log for the state of the connection; the text of the log is not kept.

    Flower has no other sign of it: /health answers 200 while a node is offline for good.
    """

    def __init__(self, state: Path) -> None:
        super().__init__(logging.INFO)
        self._state = state
        self._node_id: str | None = None
        self._connection = ""
        self._note("connecting")

    def emit(self, record: logging.LogRecord) -> None:
        """Note what one log record tells."""
        text = str(record.msg)
        if text.startswith("SuperNode ID") and record.args:
            self._node_id = str(record.args[0] if isinstance(record.args, tuple) else record.args)
            self._note("connected")
        elif text.startswith("Connection successful") and self._node_id is not None:
            self._note("connected")
        elif text.startswith("Connection attempt failed"):
            self._note("retrying")

    def _note(self, connection: str) -> None:
        if connection != self._connection:
            self._connection = connection
            write_state(self._state, {"connection": connection, "node_id": self._node_id, "since": time.time()})


def main() -> None:
    """Run flower-supernode with our watch on its log."""
    os.umask(0o077)
    end_with_parent()
    from flwr.supercore.logger import LOGGER_NAME
    from flwr.supernode.cli.flower_supernode import flower_supernode

    state = Path(sys.argv[1])
    sys.argv = ["flower-supernode", *sys.argv[2:]]
    logging.getLogger(LOGGER_NAME).addHandler(ConnectionWatch(state))
    flower_supernode()


if __name__ == "__main__":
    main()
