"""One ServerApp's process: Flower's own runner, with the task's token from standard input and no command line.

`flwr-serverapp --token T` would show the token to every user of the machine. Started by server/deployment/executor.py
as `python -m server.deployment.serverapp HOME`.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from queue import Queue

from privacy.flower.pace import until_there
from privacy.flower.processes import end_with_parent
from server.deployment.home import ServerHome


def _ask_again_soon() -> None:
    """Make Flower's Grid pause briefly, not for a second or more, when a site is still sending a part of an answer."""
    from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.superlink.grid import http_grid

    class Prompt(RuntimeHttpClient):
        def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
            return until_there(partial(super().PullObject, request))

    http_grid.RuntimeHttpClient = Prompt  # type: ignore[attr-defined]


def main() -> None:
    """Run the task of the token on standard input. This ends the process (Flower's runner exits)."""
    os.umask(0o077)
    end_with_parent()
    home = ServerHome.load(Path(sys.argv[1]))
    token = sys.stdin.read()
    _ask_again_soon()
    from flwr.supercore.logger import mirror_output_to_queue
    from flwr.superlink.runtime import run_serverapp

    lines: Queue[str | None] = Queue()
    mirror_output_to_queue(lines)
    run_serverapp(
        runtime_api_address=home.control_address,
        log_queue=lines,
        token=token,
        insecure=False,
        certificates=home.ca_certificate.read_bytes(),
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main()
