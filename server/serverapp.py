"""One ServerApp's process: Flower's own runner, with the task's token from standard input and no command line.

`flwr-serverapp --token T` would show the token to every user of the machine. Started by server/executor.py as
`python -m server.serverapp HOME`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from queue import Queue

from privacy.processes import end_with_parent
from server.home import ServerHome


def main() -> None:
    """Run the task that the token on standard input stands for; ends the process (Flower's runner exits)."""
    os.umask(0o077)
    end_with_parent()
    home = ServerHome.load(Path(sys.argv[1]))
    token = sys.stdin.read()
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
