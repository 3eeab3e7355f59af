"""A coordinator's desk for joining sites, over real TLS on loopback, that answers what a test says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from privacy.trust import certificates
from privacy.trust.link import JoinLink, desk_certificates
from tests.builders.consortium import Consortium


class LoopbackDesk:
    """A coordinator's desk. ``answers``: (status, body) for the POSTs to come; ``got``: what was sent.

    ``admits``: answers the POSTs that ``answers`` has none for, given what was sent.
    """

    def __init__(self, folder: Path) -> None:
        self.consortium = Consortium()
        self.shown = desk_certificates("test", self.consortium.authority, self.consortium.signer)
        self.answers: list[tuple[int, bytes]] = []
        self.got: list[bytes] = []
        self.admits: Callable[[bytes], tuple[int, bytes]] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, outer.shown)

            def do_POST(self) -> None:
                outer.got.append(self.rfile.read(int(self.headers["content-length"])))
                asked = outer.answers or outer.admits is None
                self._send(*(outer.answers.pop(0) if asked else outer.admits(outer.got[-1])))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        key, certificate = certificates.issue_server_certificate(
            self.consortium.authority_key, self.consortium.authority, []
        )
        (folder / "tls.key").write_bytes(key)
        (folder / "tls.crt").write_bytes(certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def link(self, site: str = "north") -> JoinLink:
        invitation = self.consortium.invitation(site)
        return JoinLink.of(type(invitation)(**{**vars(invitation), "address": self.address}))

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()
