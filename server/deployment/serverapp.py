"""One ServerApp's process: Flower's own runner, with the task's token from standard input and no command line.

`flwr-serverapp --token T` would show the token to every user of the machine. Started by server/deployment/executor.py
as `python -m server.deployment.serverapp HOME NAME`; it beats under NAME.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from privacy.flower.heartbeat import Heartbeat
from privacy.flower.internals.serverapp import run_task
from privacy.flower.processes import end_with_parent
from server.deployment.home import ServerHome


def main() -> None:
    """Run the task of the token on standard input. This ends the process (Flower's runner exits)."""
    os.umask(0o077)
    end_with_parent()
    home = ServerHome.load(Path(sys.argv[1]))
    Heartbeat(home.beat(sys.argv[2])).start()
    token = sys.stdin.read()
    run_task(home.control_address, token, home.ca_certificate)


if __name__ == "__main__":
    main()
