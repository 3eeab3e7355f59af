"""A coordinator's SuperLink as `server start` runs it: TLS, a real database, two ports."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from privacy.flower.processes import LOOPBACK, free_loopback_port, module_command, sole_instance
from server.deployment.home import ServerHome, create


@pytest.fixture(scope="session")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    folder: Path = tmp_path_factory.mktemp("coordinator") / "home"
    home = create("internals", folder, LOOPBACK, free_loopback_port(), free_loopback_port(), [])
    log = folder / "logs" / "superlink.log"
    with log.open("wb") as output:
        command = module_command("server.deployment.superlink", str(folder))
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=home.environment("superlink"))
    try:
        end = time.monotonic() + 120
        while not _answers(home):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        with sole_instance(home.lock, "the coordinator"):  # as `server start` does; Control asks for it
            yield home
    finally:
        process.terminate()
        process.wait(30)


def _answers(home: ServerHome) -> bool:
    import ssl

    try:
        context = ssl.create_default_context(cafile=str(home.ca_certificate))
        return httpx.get(f"https://{home.address}/health", verify=context, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
