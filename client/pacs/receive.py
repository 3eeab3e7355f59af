"""`client receive`: a DICOM storage node (C-STORE, PS3.4 Annex B) that takes studies from known systems into a folder.

It accepts only the AE titles that it was given, stores only CT and RT objects, and refuses more when the folder has
reached its quota. It writes files as they come, one folder a study, named by a hash. Its log lines hold a count and no
identifier. Needs the extra ``intake`` (pynetdicom).
"""

from __future__ import annotations

import hashlib
import io
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread

from client.pacs.link import Tls, check_title
from shared_model.core.errors import InputError
from shared_model.core.files import StorageError, write_bytes

PORT = 11112
# CT, RT Structure Set, RT Plan, RT Dose: what a case is read from; Enhanced CT and RT Ion Plan, so that `client check`
# can say of them why they are not used.
KINDS: tuple[str, ...] = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.481.5",
    "1.2.840.10008.5.1.4.1.1.481.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.481.8",
)
# Statuses of C-STORE (PS3.4 Table B.2-1).
SUCCESS, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Where to listen, who may send, and how much to keep. Raises InputError for an impossible title or number.

    ``allowed``: calling AE titles. ``host``: the address to listen on. ``port`` 0: any free one. ``tls``: take nothing
    but TLS, from certificates of its authority.
    """

    folder: Path
    allowed: tuple[str, ...]
    ae_title: str = "FEDKT3D"
    host: str = "127.0.0.1"
    port: int = PORT
    quota_gb: float = 50.0
    tls: Tls | None = None

    def __post_init__(self) -> None:
        for title in (self.ae_title, *self.allowed):
            check_title(title)
        if not self.allowed:
            raise InputError("--from: expected the AE title of at least one system that may send")
        if not 0 <= self.port <= 65535 or not self.quota_gb > 0:
            raise InputError("--port: expected 0 to 65535; --quota-gb: expected a number above 0")


class Store:
    """Writes instances below a folder, each whole or not at all, and never beyond a quota. Safe in several threads."""

    def __init__(self, folder: Path, quota_gb: float) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be used as a folder ({error.strerror}); choose another") from error
        self._folder = folder
        self._quota = int(quota_gb * _GIGABYTE)
        self._lock = threading.Lock()
        self._used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self.stored = 0
        self.refused = 0

    def keep(self, study_uid: str, instance_uid: str, content: bytes) -> bool:
        """Whether ``content`` was kept; it replaces an earlier copy of the same instance. False: the folder is full."""
        target = self._folder / _digest(study_uid) / f"{_digest(instance_uid)}.dcm"
        with self._lock:
            before = target.stat().st_size if target.exists() else 0
            if self._used - before + len(content) > self._quota:
                self.refused += 1
                return False
            self._used += len(content) - before
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            write_bytes(target, content)
        except (OSError, StorageError):  # a full disk
            with self._lock:
                self._used -= len(content) - before
                self.refused += 1
            return False
        with self._lock:
            self.stored += 1
        return True


def _digest(uid: str) -> str:
    """A file's name from a UID, which is the sender's to choose and may look like a path."""
    return hashlib.sha256(uid.encode()).hexdigest()[:24]


class Receiver:
    """The listening node; a context manager. ``port`` is the port that it listens on."""

    def __init__(self, intake: Intake, say: Callable[[str], None] = lambda line: None) -> None:
        self._intake, self._say = intake, say
        self.store = Store(intake.folder, intake.quota_gb)
        self._server: Any = None
        self.port = 0

    def __enter__(self) -> Receiver:
        self._server = self._listen()
        self.port = self._server.socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _listen(self) -> Any:
        try:
            from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
        except ImportError as error:
            raise InputError("receive: pynetdicom is not installed; pip install 'fedkt3d[intake]'") from error
        entity = AE(ae_title=self._intake.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._intake.allowed)
        entity.add_supported_context("1.2.840.10008.1.1")  # C-ECHO: a sender's test of the connection
        for kind in KINDS:
            entity.add_supported_context(kind, list(ALL_TRANSFER_SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, self._note_rejection),
            (evt.EVT_RELEASED, self._done),
        ]
        address = (self._intake.host, self._intake.port)
        tls = None if self._intake.tls is None else self._intake.tls.context(server=True)
        try:
            return entity.start_server(address, block=False, evt_handlers=handlers, ssl_context=tls)
        except OSError as error:
            where = f"{address[0]}:{address[1]}"
            raise InputError(f"receive: cannot listen on {where} ({error.strerror}); choose another --port") from error

    def _store(self, event: Any) -> int:
        try:
            content, instance = event.encoded_dataset(), str(event.request.AffectedSOPInstanceUID)
            study = str(dcmread(io.BytesIO(content), specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        except Exception:  # what a sender encodes wrongly can raise anything
            return NOT_UNDERSTOOD
        return SUCCESS if self.store.keep(study, instance, content) else OUT_OF_RESOURCES

    def _note_rejection(self, _: Any) -> None:
        self._say("refused a system that is not allowed to send, or that called another AE title")

    def _done(self, _: Any) -> None:
        full = f"; {self.store.refused} refused, the quota or the disk is full" if self.store.refused else ""
        self._say(f"{self.store.stored} instances received so far{full}")


def receive(intake: Intake, say: Callable[[str], None], signals: Sequence[signal.Signals] = ()) -> Store:
    """Listen until one of ``signals`` comes; return the store. InputError if it cannot listen."""
    ended = threading.Event()
    for number in signals:
        signal.signal(number, lambda *_: ended.set())
    with Receiver(intake, say) as receiver:
        say(f"listening on {intake.host}:{receiver.port} as {intake.ae_title} for {', '.join(intake.allowed)}")
        ended.wait()
    return receiver.store
