"""Flower's SuperNode as a child of `client start`: it ends with its parent, and whenever it cannot go on.

Run as `python -m client.node.supernode HOME ADDRESS`; its runtime API listens on ADDRESS for our executor. The
SuperNode only fetches messages and hands them to that API: nothing that a coordinator ships is imported in this process
either (in process isolation it reads the bundle's pyproject.toml as data and keeps the rest as bytes).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.node.fleet_watch import LOST, FleetWatch
from client.site.home import ClientHome
from privacy.flower.internals.fleet import deactivate_node
from privacy.flower.internals.supernode import read_bodies_whole, run_supernode, shorten_pauses, watch_requests
from privacy.flower.processes import end_with_parent

# How long a node stays away after it has left. The coordinator's run polls four times a second; when it finds that a
# node is away, it no longer expects an answer.
RELEASE_S = 5.0

_log = logging.getLogger("client.node.supernode")


def flags(home: ClientHome, address: str) -> list[str]:
    """Return the SuperNode's command line."""
    host, _, port = address.rpartition(":")
    return [
        *("--superlink", home.server, "--root-certificates", str(home.ca_certificate)),
        *("--auth-supernode-private-key", str(home.node_key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.secret)),
        *("--host", host, "--port", port),
    ]


def release(home: ClientHome, watch: FleetWatch) -> None:
    """Tell the coordinator that this node's message is lost, if an earlier SuperNode ended without saying so.

    Otherwise the coordinator would take the returning node for the one that left, and wait for its answer.
    """
    if watch.released or watch.node_id is None:
        return
    key = load_ssh_private_key(home.node_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # made by `client init`
    if deactivate_node(home.server, str(home.ca_certificate), key, watch.node_id, watch):
        time.sleep(RELEASE_S)


def _end(failed: threading.ExceptHookArgs) -> None:
    """End the process when a thread dies: Flower would go on without heartbeats."""
    _log.error("a thread of the SuperNode ended (%s)", failed.exc_type.__name__)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run flower-supernode for the site's folder in the first argument, at the address in the second."""
    os.umask(0o077)
    end_with_parent()
    threading.excepthook = _end
    home = ClientHome.load(Path(sys.argv[1]))
    watch = FleetWatch(home.state("supernode"))
    code: object = LOST  # Flower's main loop ends silently when it cannot go on
    try:
        release(home, watch)
        watch_requests(watch)
        shorten_pauses(watch.idle_s)
        read_bodies_whole()
        run_supernode(flags(home, sys.argv[2]))
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # from Flower's own threads: the coordinator does not accept this site's key
        code = LOST
    # Flower's HTTP server may run in a thread that would keep the process alive.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
