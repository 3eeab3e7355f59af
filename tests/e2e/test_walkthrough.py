"""docs/deploy.md is executed as it stands: five hospitals from `server init` to `server publish`, by commands alone."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy.flower.processes import free_loopback_port
from shared_model.adapter.manifest import load_adapter
from tests.e2e.deployment import SCRIPTS, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

DOCUMENT = Path(__file__).parents[2] / "docs" / "deploy.md"
_BLOCK = re.compile(r"^```sh( start)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[bool, str]]:
    """(left running, script) of the document's shell blocks, with ports that are free here."""
    text = DOCUMENT.read_text(encoding="utf-8")
    ports = f"--port {free_loopback_port()} --control-port {free_loopback_port()}"
    assert text.count("--port 9092") == 1
    return [(bool(start), script.replace("--port 9092", ports)) for start, script in _BLOCK.findall(text)]


class Shell:
    """Runs blocks as a person would: in one folder, each with a fresh shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, script: str) -> str:
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def start(self, script: str) -> None:
        """Leave a block running; wait until it says that it is there."""
        out = self.folder / f"terminal-{len(self._started)}.out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec {script.strip()}"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._started.append(process)
        word = "ready for sites" if script.startswith("server") else "connected to"
        eventually(lambda: word in out.read_text() or process.poll() is not None, 120, f"{script.strip()}: {word}")
        assert process.poll() is None, out.read_text()

    def close(self) -> None:
        for process in reversed(self._started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def test_the_walk_through_works_as_it_is_written(shell: Shell) -> None:
    told = []
    for left_running, script in blocks():
        if left_running:
            shell.start(script)
        else:
            told.append(shell.run(script))
    assert sum(start for start, _ in blocks()) == 6
    published, simulated = (
        load_adapter(shell.folder / of / "adapter.safetensors") for of in ("published", "simulated")
    )
    card = published[2]
    assert card["sites"] == {f"site-{number}": 4 for number in range(1, 6)}
    assert (published[0], published[1].size) == (simulated[0], simulated[1].size)
    for privacy in (card["privacy"], simulated[2]["privacy"]):
        assert (privacy["mode"], privacy["cohort"], privacy["sites"]) == ("shared", 20, 5)
    assert card["privacy"]["epsilon"] <= 6.0 < card["privacy"]["epsilon_all_others_collude"]
    budget = next(text for text in told if "mode shared: 2 releases" in text)
    assert "epsilon" in budget
    keys = [path for path in shell.folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert len(keys) >= 5 * 2 + 3
    for path in keys:
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.parent.name in ("keys", "ca", "tls"), path
