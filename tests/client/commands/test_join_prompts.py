"""`client join LINK` asks a person at a terminal: where the patients are, whose digits were read out, and the plan."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.data.case_files import save_case
from client.setup import agree
from client.site.home import ClientHome
from privacy.trust.membership import AdmissionRequest
from privacy.trust.peers import peer_digits
from tests.builders.consortium import Site
from tests.builders.loopback_desk import LoopbackDesk
from tests.builders.small_case import small_case

pytestmark = pytest.mark.timeout(300)
_PATIENCE_S = 120.0


class Terminal:
    """`client` in a terminal of its own, and the person before it."""

    def __init__(self, *arguments: str) -> None:
        self._fd, inner = pty.openpty()
        command = [str(Path(sys.executable).with_name("client")), *arguments]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "400"}
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True
        )
        os.close(inner)
        self.shown = ""

    def answer(self, question: str, words: str) -> None:
        """Wait for a question, and answer it."""
        self._read(lambda: question in self.shown, question)
        os.write(self._fd, f"{words}\n".encode())

    def end(self) -> int:
        """Read to the end; return the exit code."""
        self._read(lambda: False, "")
        return self.process.wait(_PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._fd)

    def _read(self, until: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not until():
            assert time.monotonic() < end, f"{what!r} was not asked:\n{self.shown}"
            if not select.select([self._fd], [], [], 1.0)[0]:
                continue
            try:
                piece = os.read(self._fd, 4096)
            except OSError:  # Linux: the terminal's other end is closed
                piece = b""
            if not piece:
                assert not what, f"it ended before {what!r} was asked:\n{self.shown}"
                return
            self.shown += piece.decode(errors="replace")


@pytest.fixture
def there(tmp_path: Path) -> Iterator[LoopbackDesk]:
    """A coordinator that admits north with a plan for north and south."""
    desk = LoopbackDesk(tmp_path)
    desk.consortium.admission(AdmissionRequest.read(Site().request(desk.consortium.invitation("south"))))

    def admits(sent: bytes) -> tuple[int, bytes]:
        request = AdmissionRequest.read(sent)
        keys = {"north": request.identity.public_bytes_raw().hex(), **desk.consortium.roster.identities()}
        plan = desk.consortium.plan(sites=keys).to_signed(desk.consortium.signer_key)
        return 200, desk.consortium.admission(request, plan)

    desk.admits = admits
    yield desk
    desk.close()


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    folder = tmp_path / "patients"
    folder.mkdir()
    for number in range(5):
        save_case(folder / f"p{number}.npz", small_case(f"p{number}"))
    return folder


@pytest.mark.parametrize(("read_out", "accepts"), [("y", "y"), ("n", ""), ("y", "n")])
def test_a_person_names_the_patients_compares_the_keys_and_decides(
    there: LoopbackDesk, patients: Path, tmp_path: Path, read_out: str, accepts: str
) -> None:
    terminal = Terminal("join", there.link().text(), "--home", str(tmp_path / "north"))
    try:
        terminal.answer("Folder of the patients:", str(patients))
        digits = peer_digits(there.consortium.id, "south", there.consortium.roster.identities()["south"])
        terminal.answer(f"south: {digits}. Has somebody at south itself read out these digits to you? [y/N]:", read_out)
        terminal.answer("Accept this plan? [y/N]:", accepts)
        code = terminal.end()
    finally:
        terminal.close()
    home = ClientHome.load(tmp_path / "north")
    assert list(home.peers.load()) == (["south"] if read_out == "y" else [])
    assert home.plan_file.exists() == (accepts == "y")
    shown = agree.newest_plan(home)
    assert shown is not None
    assert agree.is_declined(home, shown.sha256) == (accepts != "y")
    assert ("not accepted" in terminal.shown) == (accepts != "y")
    assert "ready; " in terminal.shown, "it ends with the check"
    assert code == 0
    assert re.search(r"Traceback", terminal.shown) is None


def test_without_a_terminal_nobody_is_asked_and_nothing_is_made(there: LoopbackDesk, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("client")), "join", there.link().text(), "--home"]
    done = subprocess.run(
        [*command, str(tmp_path / "north")], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "--data: expected the folder of the patients" in done.stderr
    assert not (tmp_path / "north").exists()
    assert there.got == []
