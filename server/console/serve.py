"""`server console`: the web page of one coordinator, a process of its own, which a run never waits for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privacy.flower.processes import LOOPBACK, require_free_port
from privacy.pages.guard import PageGuard, token_of
from privacy.pages.serve import serve_page
from server.console.app import console_app
from server.deployment.home import ServerHome
from shared_model.core.errors import InputError

_LOCAL = (LOOPBACK, "localhost")
_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the console listens, and other names by which browsers reach this machine."""

    host: str
    port: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.host in _EVERYWHERE and not self.names:
            raise InputError(f"--host {self.host}: expected --name too, by which browsers reach this machine")

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in _LOCAL

    @property
    def scheme(self) -> str:
        """On loopback HTTP, elsewhere HTTPS with the coordinator's own certificate."""
        return "http" if self.local else "https"

    @property
    def reached(self) -> frozenset[str]:
        """HOST:PORT that a browser may ask for."""
        hosts = (self.host, *self.names, *(_LOCAL if self.local else ()))
        return frozenset(f"{host}:{self.port}".lower() for host in hosts)

    def link(self, home: ServerHome) -> str:
        """The address that opens the console, with its token."""
        name = self.names[0] if self.names else self.host
        return f"{self.scheme}://{name}:{self.port}/?token={token_of(home.secret('console'))}"


def serve(home: ServerHome, address: Address, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. InputError when the port is taken."""
    require_free_port(address.host, address.port, "--port")
    token, command = token_of(home.secret("console")), "server console"
    guard = PageGuard(token=token, hosts=address.reached, scheme=address.scheme, command=command)
    app = console_app(home, guard)
    threading.Thread(target=app.state.pages.read_ahead, daemon=True).start()
    say(f"console: {address.link(home)}")
    key, certificate = (None, None) if address.local else (home.tls_key, home.tls_certificate)
    serve_page(app, address.host, address.port, key, certificate)


def main() -> None:
    """What `server start` runs: HOME HOST PORT."""
    folder, host, port = sys.argv[1:]
    serve(ServerHome.load(Path(folder)), Address(host=host, port=int(port)), lambda line: None)


if __name__ == "__main__":
    main()
