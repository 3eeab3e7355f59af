"""`client console`: the web page of one site, on this machine alone (127.0.0.1), a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from client.console.app import site_app
from client.node.status import CONSOLE
from client.site.home import ClientHome
from privacy.flower.processes import LOOPBACK, end_with_parent, is_running, read_state, require_free_port, write_state
from privacy.pages.guard import PageGuard, token_of
from privacy.pages.serve import serve_page
from shared_model.core.errors import InputError


def link(home: ClientHome, port: int) -> str:
    """Return the address that opens the page, with its token."""
    return f"http://{LOOPBACK}:{port}/?token={token_of(home.folder / 'secrets' / 'console')}"


def running_link(home: ClientHome) -> str:
    """Return the address of the page that `client start` runs; InputError when it does not."""
    port = read_state(home.state(CONSOLE)).get("port")
    if not is_running(home.lock) or type(port) is not int:
        raise InputError(f"{home.folder}: no page runs with `client start`; without --link this command runs one")
    return link(home, port)


def serve(home: ClientHome, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. InputError when the port is taken."""
    require_free_port(LOOPBACK, port, "--port")
    hosts = frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})
    token = token_of(home.folder / "secrets" / "console")
    app = site_app(home, PageGuard(token=token, hosts=hosts, scheme="http", command="client console --link"))
    say(f"console: {link(home, port)}")
    serve_page(app, LOOPBACK, port)


def main() -> None:
    """What `client start` runs: HOME PORT."""
    folder, port = sys.argv[1:]
    os.umask(0o077)
    end_with_parent()
    home = ClientHome.load(Path(folder))
    write_state(home.state(CONSOLE), {"port": int(port), "pid": os.getpid()})
    serve(home, int(port), lambda line: None)


if __name__ == "__main__":
    main()
