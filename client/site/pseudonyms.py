"""Pseudonyms of patients and plans: keyed hashes (HMAC-SHA256) under a salt that never leaves the site.

Without the salt nobody can trace a pseudonym to a patient id, nor test it against a list of ids. With another salt
every pseudonym is different.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from shared_model.core.errors import InputError

_SALT_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """Makes pseudonyms under one ``salt``."""

    salt: bytes = field(repr=False)

    @classmethod
    def temporary(cls) -> Pseudonyms:
        """Make pseudonyms under a new salt that ends with the process, to look at a folder once."""
        return cls(secrets.token_bytes(_SALT_BYTES))

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """Make pseudonyms under the salt in ``path`` (0600), written on first use. Raises InputError if it cannot."""
        try:
            if not path.exists():
                _make(path)
            salt = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: the salt of the pseudonyms cannot be read or made ({error.strerror})") from None
        if len(salt) != _SALT_BYTES:
            raise InputError(f"{path}: expected {_SALT_BYTES} random bytes; with another salt all case ids change")
        return cls(salt)

    def patient(self, identifier: str) -> str:
        """12 hex digits for a patient."""
        return self._digest(b"patient", identifier)[:12]

    def plan(self, uid: str) -> str:
        """8 hex digits for a plan of a patient."""
        return self._digest(b"plan", uid)[:8]

    def _digest(self, purpose: bytes, text: str) -> str:
        return hmac.new(self.salt, purpose + b"\0" + text.encode(), hashlib.sha256).hexdigest()


def _make(path: Path) -> None:
    """Write a new salt whole or not at all; of two processes that do, the first one's stays.

    Own code, not shared_model/core/files.py: there the last writer wins or the second one fails. Here the second one
    must go on with the first one's salt, for another salt would change every pseudonym.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, partial = tempfile.mkstemp(dir=path.parent, prefix=".salt-")  # 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(secrets.token_bytes(_SALT_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.unlink(partial)
