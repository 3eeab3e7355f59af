"""The way to the coordinator: through a hospital's proxy, and what stands in it, by name."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from client.setup import check_connection, enrol
from client.setup.findings import FAIL, OK, Finding
from client.site.config import SiteConfig
from client.site.home import ClientHome
from privacy.trust import certificates
from shared_model.core.errors import InputError
from tests.builders.connect_proxy import ConnectProxy
from tests.builders.consortium import Consortium

CONSORTIUM = Consortium()


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, key: bytes, certificate: bytes) -> Iterator[int]:
    """Show this certificate on a port of loopback."""
    (folder / "tls.pem").write_bytes(key + certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.pem")
    server = HTTPServer(("0.0.0.0", 0), Health)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    root = tmp_path / "cases"
    root.mkdir()
    (root / "p0.npz").touch()
    (root / "p1.npz").touch()
    (tmp_path / "north.invitation").write_bytes(CONSORTIUM.invitation("north").to_json())
    return enrol.create(
        tmp_path / "north.invitation", tmp_path / "home", enrol.Data(kind="cases", root=root, site_config=None)
    )


def own_certificate(host: str = "127.0.0.1") -> tuple[bytes, bytes]:
    return certificates.issue_server_certificate(CONSORTIUM.authority_key, CONSORTIUM.authority, [host])


def looked(home: ClientHome, port: int, proxy: str = "", host: str = "127.0.0.1") -> Finding:
    replace(SiteConfig.load(home.site_config), proxy=proxy).save(home.site_config)
    return check_connection.coordinator(replace(home, server=f"{host}:{port}"))[0]


def test_a_coordinator_is_reached_directly_and_through_the_proxy(home: ClientHome, tmp_path: Path) -> None:
    with serving(tmp_path, *own_certificate()) as port, ConnectProxy("me:pass") as proxy:
        assert looked(home, port).state == OK
        assert proxy.asked == []
        found = looked(home, port, f"http://me:pass@127.0.0.1:{proxy.port}")
        assert (found.state, "through the proxy" in found.found) == (OK, True)
        assert proxy.asked == [f"127.0.0.1:{port}"]
        assert proxy.carried > 1000


def test_a_proxy_that_refuses_is_named_and_its_password_is_not_shown(home: ClientHome, tmp_path: Path) -> None:
    with serving(tmp_path, *own_certificate()) as port, ConnectProxy("me:right") as proxy:
        found = looked(home, port, f"http://me:wrong-pass@127.0.0.1:{proxy.port}")
    assert found.state == FAIL
    assert "it wants a name and a password" in found.found
    assert "wrong-pass" not in found.found + found.todo


def test_a_firewall_that_opens_tls_is_named(home: ClientHome, tmp_path: Path) -> None:
    key, authority = certificates.new_authority("Hospital Firewall")
    with serving(tmp_path, *certificates.issue_server_certificate(key, authority, ["127.0.0.1"])) as port:
        found = looked(home, port)
    assert found.state == FAIL
    assert "a certificate of 'Hospital Firewall', not of the consortium" in found.found
    assert "must exempt" in found.todo


def test_another_consortium_of_the_same_name_and_another_address_are_told_apart(
    home: ClientHome, tmp_path: Path
) -> None:
    key, authority = certificates.new_authority("test")
    with serving(tmp_path, *certificates.issue_server_certificate(key, authority, ["127.0.0.1"])) as port:
        assert "another consortium of that name" in looked(home, port).found
    with serving(tmp_path, *own_certificate()) as port:
        assert "for another address" in looked(home, port, host="127.0.0.2").found


def test_a_proxy_that_is_no_address_is_refused_without_being_repeated(home: ClientHome) -> None:
    for bad in ("proxy", "http://proxy", "ftp://proxy:1", "http://me:secret word@proxy:80"):
        with pytest.raises(InputError, match=r"expected http://HOST:PORT") as refused:
            replace(SiteConfig.load(home.site_config), proxy=bad)
        assert "secret" not in str(refused.value)
