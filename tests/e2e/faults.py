"""A network that fails: a reverse proxy that answers with errors, and how a site is sent through it. Loopback only."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from privacy.flower.processes import LOOPBACK


class FaultProxy:
    """A reverse proxy over TLS with the coordinator's certificate; ``faults`` maps the end of a path to (status, how
    often). It answers so before or, where ``after`` names the path, after the request has reached the SuperLink."""

    def __init__(self, home: Path, target: int) -> None:
        self.faults: dict[str, list[int]] = {}
        self.after: set[str] = set()
        self.answered: list[str] = []
        self._upstream = httpx.Client(
            base_url=f"https://{LOOPBACK}:{target}",
            verify=ssl.create_default_context(cafile=home / "ca" / "ca.crt"),
            timeout=60,
        )
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / "tls" / "server.crt", home / "tls" / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail(self, path: str, status: int, times: int, *, after: bool = False) -> None:
        """Answer the next ``times`` requests to ``path`` with ``status``."""
        self.after = {path} if after else set()
        self.faults[path] = [status, times]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                call = self.path.rpartition("/")[2]
                fault = proxy.faults.get(call) or proxy.faults.get("*")
                struck = fault is not None and fault[1] > 0
                if not struck or call in proxy.after:
                    status, content = proxy.forward(self.path, dict(self.headers.items()), body)
                if struck and fault is not None:
                    fault[1] -= 1
                    proxy.answered.append(call)
                    status, content = fault[0], b"Internal Server Error"
                self.send_response(status)
                self.send_header("content-type", "application/protobuf")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

        return Handler

    def forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        kept = {k: v for k, v in headers.items() if k.lower() not in ("host", "content-length", "connection")}
        try:
            answer = self._upstream.post(path, headers=kept, content=body)
        except httpx.TransportError:
            return 502, b""
        return answer.status_code, answer.content

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._upstream.close()


def reach_by(site_home: Path, port: int) -> None:
    """Have a site reach the coordinator by another port."""
    path = site_home / "client.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "server": f"{LOOPBACK}:{port}"}))
