"""Write files whole or not at all. After a crash either the old file or the new one is there, never half a file.

Each file is first written under another name in the same folder and synced. Then it is renamed, and the folder is
synced so that the new name is on the disk too. Two kinds of files have their own code, which says why: the privacy
ledger (privacy/dp/ledger.py) and the salt of a site's pseudonyms (client/site/pseudonyms.py).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from shared_model.core.errors import InputError

# Mode bits. PRIVATE: only the owner reads the file (keys, patients). PUBLIC: everybody can read it, whatever the umask
# is. ORDINARY: the umask of the process decides, as for any file that a program writes.
PRIVATE, PUBLIC, ORDINARY = 0o600, 0o644, None
PARTIAL = ".partial"  # the name of a file that is still being written ends with this


class StorageError(InputError):
    """A file cannot be written: the disk is full, or the folder does not allow it. The old file is still there."""

    def __init__(self, path: Path, error: OSError) -> None:
        what = self.strerror = error.strerror or type(error).__name__
        super().__init__(
            f"{path}: cannot be written ({what}); make room or choose another folder, and run it again;"
            " the old file is kept"
        )


@contextmanager
def whole_file(path: Path, mode: int | None = PRIVATE, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a stream. When the block ends, its content becomes the file ``path``. If the block raises, nothing changes.

    Several processes may write the same file: the last one to finish wins. Missing folders are made.
    ``durable=False`` leaves out the syncs. It is for a state that is written often and is worthless after a power cut.
    A reader still sees that file whole.

    Raises StorageError for any OSError in the block.
    """
    try:
        _make_folder(path.parent)
        with _partial(path, mode) as (partial, stream):
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
            os.replace(partial, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise StorageError(path, error) from error


def write_bytes(path: Path, *parts: bytes | memoryview, mode: int | None = PRIVATE) -> None:
    """Write ``parts`` one after another as the file ``path``. Raises StorageError if that fails."""
    with whole_file(path, mode) as stream:
        for part in parts:
            stream.write(part)


def write_text(path: Path, text: str, mode: int | None = PRIVATE) -> None:
    """Write ``text`` in UTF-8 as the file ``path``. Raises StorageError if that fails."""
    write_bytes(path, text.encode(), mode=mode)


def write_json(path: Path, content: Any, mode: int | None = PRIVATE, *, indent: int = 1, durable: bool = True) -> None:
    """Write ``content`` as JSON. Raises InputError if a number is not finite, StorageError if writing fails."""
    try:
        text = json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as error:
        raise InputError(f"{path.name}: holds a number that is not finite; JSON cannot hold it") from error
    with whole_file(path, mode, durable=durable) as stream:
        stream.write(text.encode())


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file that never replaces another: a key, a certificate, an invitation.

    Raises InputError if ``path`` exists, StorageError if writing fails.
    """
    try:
        with _partial(path, mode) as (partial, stream):
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.link(partial, path)  # fails if the name is taken; if two processes try, the first one wins
            os.unlink(partial)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise InputError(f"{path}: exists already; keys and certificates are never overwritten") from error
    except OSError as error:
        raise StorageError(path, error) from error


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk, so that a new or renamed file survives a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _partial(path: Path, mode: int | None) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in the folder of ``path``, and its stream. If the block raises, the file is removed."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(6)}{PARTIAL}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if mode is not None:
                os.fchmod(descriptor, mode)  # whatever the umask is
            yield partial, stream
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and sync the parent of each new one."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
