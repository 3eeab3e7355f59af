"""Private keys on disk under a passphrase: PKCS8, encrypted where one is given, in one place for both sides.

The passphrase comes from the file that FEDKT3D_PASSPHRASE_FILE names, from FEDKT3D_PASSPHRASE itself, or from systemd's
credential ``fedkt3d-passphrase``. It goes on the consortium's CA key, its documents' key, and a site's identity key; of
the processes that run unattended the site's executor alone gets it, which signs with the identity. The TLS key and the
Flower node key stay plain (0600), since Flower reads them from disk by itself and asks for nothing; so do the secrets
of the local channels.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from privacy.trust import identity
from shared_model.core.errors import InputError

FILE, TEXT, CREDENTIAL = "FEDKT3D_PASSPHRASE_FILE", "FEDKT3D_PASSPHRASE", "fedkt3d-passphrase"
_HOW = f"give it by {FILE}, {TEXT} or the systemd credential {CREDENTIAL}"
LEAST_CHARACTERS = 12


def passphrase() -> bytes | None:
    """Return the passphrase that was given, less the newline at its end; None where none was.

    InputError where the file cannot be read, or what was given is shorter than LEAST_CHARACTERS.
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
    """The variables by which a passphrase was given, for a child process that needs one; a file by its full path."""
    given = {name: os.environ[name] for name in (FILE, TEXT) if name in os.environ}
    return given | ({FILE: str(Path(given[FILE]).resolve())} if given.get(FILE) else {})


def write_private_key(path: Path, key_pem: bytes) -> None:
    """Create `path` (0600, never over an older file) with a PKCS8 key, encrypted where a passphrase is given."""
    word = passphrase()
    if word is not None:
        key = serialization.load_pem_private_key(key_pem, password=None)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(word),
        )
    identity.write_private(path, key_pem)


def read_private_key(path: Path) -> bytes:
    """Return a private key as plain PKCS8 PEM; InputError where its passphrase is missing or wrong.

    What is no encrypted key is returned as it is: whoever uses the key checks it.
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
        raise InputError(f"{path}: the passphrase is not this key's, or the file is damaged; {_HOW}") from None
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
