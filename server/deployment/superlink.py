"""The SuperLink of a deployment, with a guard in front: sites reach the Fleet API, /health and /join, and nothing else.

Stock flower-superlink serves its Fleet, Control and Runtime APIs on one port and authenticates nobody at the last two:
whoever holds the CA certificate can list nodes, register a key, start a run or take the ServerApp's task. A check of
the source address does not mend that, since a reverse proxy on the same host makes everyone local. So this process
listens twice, with the same certificate:

- host:port, for sites. Only /v1/fleet/, /health and /join exist there. A request to the first must be signed by an
  admitted node key: this is checked before its body is read, and again by Flower. The last is ours: the desk for sites
  that come with a link (server/deployment/desk.py).
- 127.0.0.1:control_port, for the coordinator's own tools, on no other interface. The Control API needs the
  installation's secret (HTTP Basic, inside TLS); the Runtime API has Flower's own proof (an HMAC by the SuperExec
  secret to take a task, that task's token afterwards), which Flower asks for in process isolation only.

Run as `python -m server.deployment.superlink HOME` by `server start`.
"""

from __future__ import annotations

import base64
import hmac
import os
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path

from privacy.flower.internals.node_headers import signing_node
from privacy.flower.processes import LOOPBACK, end_with_parent, read_state
from privacy.flower.whole_body import Application, Receive, Scope, Send, WholeBody, refuse
from privacy.trust.identity import canonical_node_key
from privacy.trust.link import JOIN
from server.deployment.desk import JoinDesk
from server.deployment.home import CONTROL_USER, ServerHome

FLEET = "/v1/fleet/"
CONTROL = "/v1/control/"
RUNTIME = "/v1/runtime/"
HEALTH = "/health"
Headers = Iterable[tuple[bytes, bytes]]
LOOK_S = 5.0  # between two looks at the TLS certificate
CUT_EVERY_S = 300.0


class Guard:
    """ASGI application that passes on what the module's docstring names and answers 404 to everything else.

    The port of the connection decides, as the operating system reports it. No header can change that.
    """

    def __init__(
        self,
        application: Application,
        control_port: int,
        control_secret: bytes,
        admits: Callable[[Headers], bool],
        desk: Application,
    ) -> None:
        self._application, self._admits, self._desk = application, admits, desk
        self._control_port = control_port
        credentials = base64.b64encode(CONTROL_USER.encode() + b":" + control_secret)
        self._control_authorization = b"Basic " + credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass `scope` on or refuse it (ASGI 3.0)."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] == JOIN and _port(scope) != self._control_port:
            await self._desk(scope, receive, send)
        elif self._allows(scope):
            if self._of_a_stranger(scope):
                await refuse(send, 401)
                return
            await self._application(_without_basic(scope), receive, send)
        else:
            await refuse(send, 404)

    def _of_a_stranger(self, scope: Scope) -> bool:
        """Whether a site's request has no admitted node key: nothing of its body is read then."""
        fleet = scope["path"].startswith(FLEET)
        return fleet and not self._admits(scope["headers"])

    def _allows(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if ".." in path:
            return False
        if path == HEALTH:
            return True
        if _port(scope) != self._control_port:
            return path.startswith(FLEET)
        if path.startswith(CONTROL):
            sent = [value for name, value in scope["headers"] if name == b"authorization"]
            return len(sent) == 1 and hmac.compare_digest(sent[0], self._control_authorization)
        return path.startswith(RUNTIME)


def _port(scope: Scope) -> int | None:
    """Port of this end of the connection, as the operating system reports it."""
    server = scope.get("server") or ("", None)
    port: int | None = server[1]
    return port


def _without_basic(scope: Scope) -> Scope:
    """Drop our Authorization header: Flower's own middleware refuses every scheme but Bearer."""
    headers = [(n, v) for n, v in scope["headers"] if not (n == b"authorization" and v.startswith(b"Basic "))]
    return {**scope, "headers": headers}


class AdmittedNodes:
    """Whether a request's headers are signed by a node key in ``sites.json``, which is read anew when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, frozenset[bytes]] = (-1, frozenset())

    def __call__(self, headers: Headers) -> bool:
        """Return it. A request that is signed by nobody costs no look at the file."""
        key = signing_node(headers)
        return key is not None and key in self._keys()

    def _keys(self) -> frozenset[bytes]:
        try:
            changed = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return frozenset()
        if changed != self._read[0]:
            sites = read_state(self._path).values()
            self._read = (changed, frozenset(canonical_node_key(site["public_key"].encode()) for site in sites))
        return self._read[1]


def superlink_arguments(home: ServerHome) -> list[str]:
    """Return the SuperLink's command line."""
    return [
        *("--ssl-ca-certfile", str(home.ca_certificate)),
        *("--ssl-certfile", str(home.tls_certificate)),
        *("--ssl-keyfile", str(home.tls_key)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.secret("superexec"))),
        *("--host", home.host, "--port", str(home.port)),
        *("--database", str(_database(home))),
    ]


def listen(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket, IPv4 or IPv6 by the look of `host`."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def run(home: ServerHome) -> None:
    """Serve until SIGTERM."""
    import uvicorn  # the web stack is needed in this process only

    from privacy.flower.internals.superlink import log_settings, superlink_application

    application = superlink_application(superlink_arguments(home))
    guard = Guard(
        WholeBody(application),
        home.control_port,
        home.secret("control").read_bytes(),
        AdmittedNodes(home.sites_file),
        JoinDesk(home),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            guard,
            access_log=False,  # sites poll every few seconds
            proxy_headers=False,  # nobody's header decides who a caller is
            server_header=False,
            log_config=log_settings(),
            ssl_certfile=str(home.tls_certificate),
            ssl_keyfile=str(home.tls_key),
        )
    )
    server.config.load()
    _keep(server.config.ssl, home)
    server.run(sockets=[listen(home.host, home.port), listen(LOOPBACK, home.control_port)])
    truncate_log(_database(home))


def reload_certificate(context: ssl.SSLContext, home: ServerHome) -> bool:
    """Serve the home's present certificate from the next connection on; False where its two files do not fit."""
    try:
        context.load_cert_chain(home.tls_certificate, home.tls_key)
    except (OSError, ssl.SSLError):
        return False
    return True


def truncate_log(database: Path) -> None:
    """Move what SQLite's log holds into the database and cut the log; nothing while somebody reads or writes."""
    if not database.exists():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=1.0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _database(home: ServerHome) -> Path:
    return home.folder / "state" / "superlink.db"


def _keep(context: ssl.SSLContext | None, home: ServerHome) -> None:
    """From a thread: take a renewed certificate without a restart, and keep the database's log small."""

    def run() -> None:
        served, cut_at = _state(home.tls_certificate), time.monotonic()
        while True:
            time.sleep(LOOK_S)
            now = _state(home.tls_certificate)
            if context is not None and now != served and reload_certificate(context, home):
                served = now
            if time.monotonic() - cut_at > CUT_EVERY_S:
                truncate_log(_database(home))
                cut_at = time.monotonic()

    threading.Thread(target=run, name="keep", daemon=True).start()


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)


if __name__ == "__main__":
    os.umask(0o077)
    end_with_parent()
    run(ServerHome.load(Path(sys.argv[1])))
