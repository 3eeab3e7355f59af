"""What a site must remember across restarts: which set-ups it has begun, and which rounds it helped to reveal.

A set-up begins only once. In a session only the newest round may be revealed again, and only with exactly the same sum.
So a coordinator that lost a result may ask for it again. But two sums of one round over different sites are refused,
because their difference is one site's vector. Sums without noise are all over the sites of the first one (``freeze``).
The file is a list of lines, each with a checksum. A line is appended and fsynced before anything leaves. The site never
acted on a line that a crash cut off, so that line is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from pathlib import Path
from typing import Protocol, Self

from privacy.secagg.errors import OTHER_SITES, ROUND_SPENT, SecAggError
from shared_model.core.errors import InputError
from shared_model.core.files import sync_folder

_LINE = re.compile(
    r"(setup ([0-9a-f]{64})|reveal ([0-9a-f]{32}) (\d{1,10}) ([0-9a-f]{64})|sites ([0-9a-f]{64}) ([0-9a-f]{64}))"
    r" ([0-9a-f]{16})"
)


class ReplayState(Protocol):
    """Where a site records what it must not do twice. Each record is durable when the call returns."""

    def begin(self, setup: bytes) -> None:
        """Record a set-up; SecAggError if it was begun before."""
        ...

    def check(self, session: bytes, round_number: int) -> None:
        """Raise SecAggError when a later round of the session was revealed: this round can no longer be revealed."""
        ...

    def reveal(self, session: bytes, round_number: int, what: bytes) -> None:
        """Record which sum of a round is about to be revealed; SecAggError if another sum was revealed before."""
        ...

    def check_sites(self, frozen: bytes, sites: bytes) -> None:
        """Raise SecAggError if sums under ``frozen`` are over other sites than ``sites`` (both: hashes)."""
        ...

    def freeze(self, frozen: bytes, sites: bytes) -> None:
        """Record over which sites all sums under ``frozen`` are; SecAggError if they are over others."""
        ...


class MemoryReplay:
    """Forgets everything when the process ends. For simulations, whose sites end with the process too."""

    def __init__(self) -> None:
        self._setups: set[bytes] = set()
        self._revealed: dict[bytes, tuple[int, bytes]] = {}
        self._frozen: dict[bytes, bytes] = {}

    def begin(self, setup: bytes) -> None:
        """Record a set-up."""
        if setup in self._setups:
            raise SecAggError("replay", "this set-up was begun before; the coordinator must propose a new one")
        self._write(f"setup {setup.hex()}")
        self._setups.add(setup)

    def check(self, session: bytes, round_number: int) -> None:
        """Refuse a round that comes before the newest revealed one."""
        newest = self._revealed.get(session, (-1, b""))[0]
        if round_number < newest:
            raise SecAggError("replay", f"round {round_number} is over: round {newest} {ROUND_SPENT}")

    def reveal(self, session: bytes, round_number: int, what: bytes) -> None:
        """Record a sum."""
        self.check(session, round_number)
        newest = self._revealed.get(session)
        if newest == (round_number, what):
            return
        if newest is not None and newest[0] == round_number:
            raise SecAggError("replay", f"another sum of round {round_number} {ROUND_SPENT}")
        self._write(f"reveal {session.hex()} {round_number} {what.hex()}")
        self._revealed[session] = (round_number, what)

    def check_sites(self, frozen: bytes, sites: bytes) -> None:
        """Refuse a sum over other sites."""
        if self._frozen.get(frozen, sites) != sites:
            raise SecAggError("survivors", OTHER_SITES)

    def freeze(self, frozen: bytes, sites: bytes) -> None:
        """Record the sites."""
        self.check_sites(frozen, sites)
        if frozen not in self._frozen:
            self._write(f"sites {frozen.hex()} {sites.hex()}")
            self._frozen[frozen] = sites

    def _write(self, line: str) -> None:
        """Do nothing: there is no file."""


class FileReplay(MemoryReplay):
    """Keeps the record in one file, which one process holds at a time. A context manager; ``close`` releases the file.

    Raises InputError when the file cannot be used, another process holds it, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except OSError as error:
            self.close()
            raise InputError(f"{path}: another process of this site uses it; stop that process first") from error
        except InputError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _load(self) -> None:
        """Read the file, cut off an incomplete last line, and make the file's directory entry durable."""
        with open(self._file, "rb", closefd=False) as source:
            content = source.read()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
            self._take(line.decode("ascii", "replace"), number)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)
        os.fsync(self._file)
        sync_folder(self._path.parent)

    def _take(self, line: str, number: int) -> None:
        match = _LINE.fullmatch(line)
        if match is None or match[8] != _checksum(match[1]):
            raise InputError(
                f"{self._path}: line {number} is damaged; this site cannot tell what it has revealed. Restore the file,"
                " or move it away and have the coordinator start a new run"
            )
        if match[2]:
            self._setups.add(bytes.fromhex(match[2]))
        elif match[6]:
            self._frozen[bytes.fromhex(match[6])] = bytes.fromhex(match[7])
        else:
            self._revealed[bytes.fromhex(match[3])] = (int(match[4]), bytes.fromhex(match[5]))

    def _write(self, line: str) -> None:
        data = f"{line} {_checksum(line)}\n".encode()
        before = os.lseek(self._file, 0, os.SEEK_CUR)
        try:
            if os.write(self._file, data) != len(data):
                raise OSError(None, "no room")
            os.fsync(self._file)
        except OSError as error:
            self._undo(before)
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); nothing was revealed") from error

    def _undo(self, size: int) -> None:
        """Remove a half-written line. If even that fails, close the file: then nothing more can be recorded."""
        try:
            os.ftruncate(self._file, size)
            os.lseek(self._file, size, os.SEEK_SET)
        except OSError:
            self.close()


def _checksum(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:16]
