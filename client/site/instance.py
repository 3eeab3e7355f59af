"""Which copy of a site's home this is: an instance id that a copy elsewhere does not keep.

A restart keeps the id. A copied folder (`cp -a`), and a machine that was restored or cloned and started again, get
another. The coordinator asks one instance at a time (server/sites/dialect.py), so that two nodes with one key cannot
share a run's messages.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from privacy.flower.processes import read_state, write_state

_MACHINE = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id")


def instance(home: Path) -> str:
    """Return the instance id of the folder ``home``, 32 hex digits; make it when there is none or the folder moved."""
    path, place = home / "state" / "instance.json", _place(home)
    known = read_state(path)
    if known.get("place") != place:
        known = {"place": place, "instance": secrets.token_hex(16)}
        write_state(path, known)
    return str(known["instance"])


def _place(home: Path) -> str:
    """Return a hash that differs between any two copies of a home."""
    digest = hashlib.sha256(os.fsencode(home.resolve()))
    status = home.stat()
    digest.update(f"{status.st_dev} {status.st_ino}".encode())
    for name in _MACHINE:
        with suppress(OSError):
            digest.update(Path(name).read_bytes())
    return digest.hexdigest()
