"""What `server start` refuses, warns of and rebuilds; real processes are in tests/e2e."""

import datetime as dt
import json
import os
import shutil
import socket
import sqlite3
import ssl
import threading
import time
import tomllib
from pathlib import Path

import pytest

from privacy.flower.processes import write_state
from privacy.trust import certificates
from server.consortium.admission import Admissions
from server.deployment import nodes, start
from server.deployment.home import ServerHome, create, renew_tls
from server.deployment.superlink import reload_certificate, truncate_log
from server.runs import index as runs
from shared_model.core.errors import FedKT3DError, InputError
from tests.builders.run_config import plain_run


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


def ends_in(home: ServerHome, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "SERVER_DAYS", days)
    if days < 0:
        monkeypatch.setattr(certificates, "CLOCK_SKEW", dt.timedelta(days=100))
    renew_tls(home, home.ca_key.read_bytes(), [])


def test_a_coordinator_whose_certificate_has_ended_does_not_start(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_in(home, -57, monkeypatch)
    monkeypatch.setattr(start, "supervise", lambda *_: None)
    with pytest.raises(InputError, match=r"ended on .*server tls --home"):
        start.start(home, lambda _: None)


def test_the_last_thirty_days_of_a_certificate_are_said(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_in(home, 20, monkeypatch)
    monkeypatch.setattr(start, "supervise", lambda *_: None)
    said: list[str] = []
    start.start(home, said.append)
    assert any("19 days" in line and "server tls" in line for line in said)


def test_the_last_half_year_of_the_document_key_is_said(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "supervise", lambda *_: None)
    said: list[str] = []
    start.start(home, said.append)
    assert not any("server rotate" in line for line in said)
    monkeypatch.setattr(certificates, "DOCUMENT_DAYS", 179)
    Admissions(home).rotate(home.ca_key)
    start.start(home, said.append)
    assert any("ends on" in line and f"server rotate --home {home.folder}" in line for line in said)


def test_a_home_that_was_moved_writes_into_its_new_place(home: ServerHome, tmp_path: Path) -> None:
    out = runs.default_out(home, "run")
    runs.remember(home, "1" * 5, plain_run(), out)
    moved = tmp_path / "elsewhere"
    shutil.copytree(home.folder, moved)
    there = ServerHome.load(moved)
    assert runs.find(there, "run").out == moved / "runs" / "run"
    there.write_connection()
    connection = tomllib.loads((moved / "flwr/control/config.toml").read_text())["superlink"]["coordinator"]
    assert connection["root-certificates"] == str(there.ca_certificate)
    aside = tmp_path / "aside"
    runs.remember(home, "2" * 5, plain_run(name="other"), aside)
    assert runs.find(home, "other").out == aside


class Control:
    """A SuperLink that knows some nodes."""

    def __init__(self, known: list[str]) -> None:
        self.known, self.registered = known, []

    def nodes(self) -> list[dict[str, str]]:
        return [{"node-id": node, "status": "online"} for node in self.known]

    def register(self, public_key: Path) -> str:
        key = public_key.read_text().strip()
        if key == "bad":
            raise FedKT3DError("flwr supernode: no")
        self.registered.append(key)
        return f"new-{key}"


def test_sites_that_a_new_superlink_does_not_know_are_registered_again(home: ServerHome) -> None:
    """Restored without superlink.db, every site was turned away for ever, and no command brought them back."""
    sites = {name: {"node_id": name * 2, "public_key": f"key-{name}", "registered_at": "x"} for name in "ab"}
    home.sites_file.write_text(json.dumps(sites))
    control = Control(["bb"])
    assert nodes.restore(home, control) == ["a"]  # type: ignore[arg-type]
    after = json.loads(home.sites_file.read_text())
    assert after["a"]["node_id"] == "new-key-a"
    assert after["b"] == sites["b"]
    assert control.registered == ["key-a"]
    assert list((home.folder / "state").glob("*.pub")) == []
    assert nodes.restore(home, Control(["new-key-a", "bb"])) == []  # type: ignore[arg-type]


def test_a_certificate_renewed_during_a_run_is_served_without_a_restart(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.tls_certificate, home.tls_key)
    listener = socket.create_server(("127.0.0.1", 0))

    def shown() -> bytes:
        def serve() -> None:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        client = ssl.create_default_context(cafile=str(home.ca_certificate))
        plain = socket.create_connection(listener.getsockname())
        with client.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            found = secure.getpeercert(binary_form=True)
        thread.join()
        assert found is not None
        return found

    before = shown()
    renew_tls(home, home.ca_key.read_bytes(), [])
    assert reload_certificate(context, home)
    assert shown() != before
    home.tls_key.write_bytes(b"half a fi")
    assert not reload_certificate(context, home), "between the two files the old pair stays"
    assert shown() != before
    listener.close()


def test_the_databases_log_is_cut_at_a_clean_stop(tmp_path: Path) -> None:
    """It was 114 MB after 90 rounds of 64 numbers, and stayed so."""
    path = tmp_path / "superlink.db"
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.execute("CREATE TABLE t (x)")
    writer.execute("INSERT INTO t VALUES (zeroblob(3000000))")
    writer.commit()
    log = tmp_path / "superlink.db-wal"
    assert log.stat().st_size > 3_000_000
    truncate_log(path)
    assert log.stat().st_size == 0
    assert writer.execute("SELECT length(x) FROM t").fetchone() == (3_000_000,)
    writer.close()
    truncate_log(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_health_check_says_what_is_wrong(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start.ill(home) == "server start does not run"
    monkeypatch.setattr(start, "is_running", lambda _: True)
    write_state(home.state_file, {"ready": False})
    assert start.ill(home) == "the SuperLink is starting"
    write_state(home.state_file, {"ready": True})
    assert start.ill(home) == "the SuperLink does not answer"
    monkeypatch.setattr(start, "is_ready", lambda _: True)
    assert start.ill(home) == "no sign of life from the executor"
    beat = home.beat("executor")
    beat.touch()
    assert start.ill(home) == ""
    os.utime(beat, (time.time() - 600, time.time() - 600))
    assert start.ill(home) == "no sign of life from the executor"
