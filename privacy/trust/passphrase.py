"""Private keys on disk under a passphrase: PKCS8, encrypted if a passphrase is given. Both sides use this module.

The passphrase comes from the file that FEDKT3D_PASSPHRASE_FILE names, from FEDKT3D_PASSPHRASE itself, or from systemd's
credential ``fedkt3d-passphrase``. It protects the consortium's CA key, its documents' key, and a site's identity key.
Of the unattended processes only the site's executor gets it, because it signs with the identity. The TLS key and the
Flower node key stay plain (0600), because Flower reads them from disk itself and asks for no passphrase. The secrets of
the local channels stay plain too.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from privacy.trust import identity
from shared_model.core.errors import InputError
from shared_model.core.files import PRIVATE, create_file

FILE, TEXT, CREDENTIAL = "FEDKT3D_PASSPHRASE_FILE", "FEDKT3D_PASSPHRASE", "fedkt3d-passphrase"
_HOW = f"give it by {FILE}, {TEXT} or the systemd credential {CREDENTIAL}"
LEAST_CHARACTERS = 12


def passphrase() -> bytes | None:
    """Return the given passphrase without the newline at its end; None if none was given.

    InputError when the file cannot be read, or the passphrase is shorter than LEAST_CHARACTERS.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(credentials) / CREDENTIAL if credentials else None
    if named := os.environ.get(FILE):
        source, text = f"{FILE}={named}", identity.read_input(Path(named)).rstrip(b"\r\n")
    elif (given := os.environ.get(TEXT)) is not None:
        source, text = TEXT, given.encode()
    elif credential is not None and credential.is_file():
        source, text = f"credential {CREDENTIAL}", identity.read_input(credential).rstrip(b"\r\n")
    else:
        return None
    if len(text.decode(errors="replace")) < LEAST_CHARACTERS:
        raise InputError(f"{source}: expected a passphrase of {LEAST_CHARACTERS} characters or more")
    return text


def passphrase_environment() -> dict[str, str]:
    """Return the variables that give the passphrase, for a child process that needs it. A file has its full path."""
    given = {name: os.environ[name] for name in (FILE, TEXT) if name in os.environ}
    return given | ({FILE: str(Path(given[FILE]).resolve())} if given.get(FILE) else {})


def write_private_key(path: Path, key_pem: bytes) -> None:
    """Create `path` (0600, never over an older file) with a PKCS8 key, encrypted if a passphrase is given."""
    word = passphrase()
    if word is not None:
        key = serialization.load_pem_private_key(key_pem, password=None)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(word),
        )
    create_file(path, key_pem, PRIVATE)


def read_private_key(path: Path) -> bytes:
    """Return a private key as plain PKCS8 PEM; InputError when its passphrase is missing or wrong.

    Content that is not an encrypted key is returned unchanged. The code that uses the key checks it.
    """
    content = identity.read_input(path)
    if b"BEGIN ENCRYPTED PRIVATE KEY" not in content:
        return content
    word = passphrase()
    if word is None:
        raise InputError(f"{path}: this key has a passphrase; {_HOW}")
    try:
        key = serialization.load_pem_private_key(content, password=word)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{path}: the passphrase is wrong for this key, or the file is damaged; {_HOW}") from None
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
