"""A page under more callers than it serves: it refuses the rest, stays small, and serves on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from privacy.flower.processes import LOOPBACK, free_loopback_port
from privacy.pages.guard import token_of
from privacy.pages.serve import MOST_CONNECTIONS
from server.deployment.home import ServerHome, create
from tests.builders.eventually import eventually

FLOOD = 4 * MOST_CONNECTIONS
MOST_BYTES = 300_000_000


def answers(address: str) -> int | None:
    """The status of the answer; None where nothing listens."""
    try:
        return httpx.get(address, timeout=60).status_code
    except httpx.TransportError:
        return None


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


@pytest.fixture
def served(home: ServerHome) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process that `server start` runs, and its address."""
    port = free_loopback_port()
    process = subprocess.Popen([sys.executable, "-m", "server.console.serve", str(home.folder), LOOPBACK, str(port)])
    address = f"http://{LOOPBACK}:{port}"
    try:
        assert eventually(lambda: answers(address) is not None, 120)
        yield process, address
    finally:
        process.kill()
        process.wait()


def test_a_flood_is_refused_and_leaves_nothing_behind(
    home: ServerHome, served: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, address = served
    token = token_of(home.secret("console"))
    page = f"{address}/?token={token}"
    host, port = address.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(FLOOD):  # callers who say nothing
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        with ThreadPoolExecutor(16) as threads:
            assert set(threads.map(lambda _: answers(page), range(FLOOD))) == {503}
        (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert 1024 * int(resident) < MOST_BYTES
    assert eventually(lambda: answers(page) == 303)
    assert process.poll() is None
