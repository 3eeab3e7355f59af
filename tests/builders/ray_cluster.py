"""A Ray cluster of this machine alone, started as a user starts one."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.flower.processes import free_loopback_port
from tests.builders.eventually import eventually

HOST = "127.0.0.1"


@contextmanager
def ray_cluster(cpus: int = 2) -> Iterator[str]:
    """HOST:PORT of its head while the block runs. It works in a folder of its own, whose short name sockets need."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        port = free_loopback_port()
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--node-ip-address={HOST}"),
            *(f"--port={port}", f"--num-cpus={cpus}", f"--temp-dir={folder}", "--include-dashboard=false"),
            "--disable-usage-stats",
        ]
        log = Path(folder) / "start.txt"
        with log.open("w") as told:
            head = subprocess.Popen(command, cwd=folder, stdout=told, stderr=subprocess.STDOUT)
        try:
            assert eventually(lambda: "Ray runtime started" in log.read_text(), 120), log.read_text()
            yield f"{HOST}:{port}"
        finally:
            head.terminate()  # which ends the processes of this cluster, and no other
            head.wait(60)


def answers(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        return False
    return True
