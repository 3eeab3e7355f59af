"""How a privacy ledger (privacy/dp/ledger.py) reads and writes its files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_model.core.errors import InputError


@contextmanager
def linked(path: Path) -> Iterator[int]:
    """Give a descriptor whose content becomes the new file ``path`` at the end; FileExistsError if there is one."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        yield descriptor
        os.link(partial, path)
    finally:
        os.close(descriptor)
        os.unlink(partial)


def read(path: Path) -> bytes:
    """Return a file's content, nothing where there is none. InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path}: the privacy ledger cannot be read ({error.strerror})") from error


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of ``content``, however little the system takes at once. Raises OSError."""
    while content:
        content = content[os.write(descriptor, content) :]
