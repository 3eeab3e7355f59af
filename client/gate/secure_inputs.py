"""The last vectors that a site put into secure sums, kept at the site so that it can show them in an audit.

What a site signs hides the vector (``input_commitment`` in privacy/secagg/site.py); salt and vector open it. The folder
holds one file (mode 0600) for each of the last few sums: the vector that left the site masked, noise included, and that
step's secrets, which take its masks off. The files are encrypted (AES-256-GCM) under a key that follows from the site's
identity key: where that has a passphrase, a stolen disk shows none of them. They never leave unless the site opens one.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secagg.masks import Ring
from privacy.secagg.site import Opening, input_commitment
from shared_model.core.errors import InputError
from shared_model.core.files import write_bytes

KEEP = 4
_NONCE_BYTES = 12


class SecureInputs:
    """A folder of kept vectors, made on first use, under ``key`` (32 bytes). With ``keep`` 0 it keeps none."""

    def __init__(self, folder: Path, key: bytes, keep: int = KEEP) -> None:
        self._folder, self._key, self._keep = folder, key, keep

    def keep(
        self, run_id: str, round_number: int, commitment: bytes, opening: Opening, vector: Ring, noised: bool
    ) -> None:
        """Write one sum's input durably and delete the oldest beyond ``keep``; InputError when the disk is full.

        ``noised``: whether the vector has this site's own noise in it, and was charged for.
        """
        if self._keep == 0:
            return
        content = io.BytesIO()
        np.savez(
            content,
            run=np.array(run_id),
            round=np.array(round_number),
            noised=np.array(noised),
            context=np.frombuffer(opening.context, np.uint8),
            salt=np.frombuffer(opening.salt, np.uint8),
            seed=np.frombuffer(opening.seed, np.uint8),
            mask_key=np.frombuffer(opening.mask_key, np.uint8),
            commitment=np.frombuffer(commitment, np.uint8),
            vector=vector,
        )
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = max((int(path.stem) for path in self._files()), default=0) + 1
            nonce = os.urandom(_NONCE_BYTES)
            sealed = AESGCM(self._key).encrypt(nonce, content.getvalue(), None)
            write_bytes(self._folder / f"{number:08d}.sealed", nonce, sealed)
            for path in self._files()[: -self._keep]:
                path.unlink()
        except OSError as error:
            raise InputError(f"{self._folder}: cannot be written ({error.strerror}); make room") from error

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.sealed") if path.stem.isdigit())


@dataclass(frozen=True, kw_only=True)
class KeptInput:
    """What a site put into one sum: (d,) ``vector``, the signed commitment, and what opens it.

    ``noised``: whether this site's own noise is in the vector; False where a file of an earlier version does not say.
    """

    run_id: str
    round: int
    noised: bool
    commitment: bytes
    opening: Opening
    vector: Ring


def read_input(path: Path, key: bytes, site: int) -> KeptInput:
    """Read a kept input whose commitment it opens; InputError when it does not, or under another key."""
    try:
        content = path.read_bytes()
        plain = AESGCM(key).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], None)
        with np.load(io.BytesIO(plain), allow_pickle=False) as found:
            kept = KeptInput(
                run_id=str(found["run"]),
                round=int(found["round"]),
                noised="noised" in found and bool(found["noised"]),
                commitment=found["commitment"].tobytes(),
                opening=Opening(**{name: found[name].tobytes() for name in ("context", "salt", "seed", "mask_key")}),
                vector=found["vector"],
            )
    except (OSError, ValueError, KeyError, EOFError, InvalidTag) as error:
        raise InputError(f"{path}: cannot be read as an input that was kept ({type(error).__name__})") from error
    if input_commitment(kept.opening.context, site, kept.opening.salt, kept.vector) != kept.commitment:
        raise InputError(f"{path}: the vector is not the one that was committed to")
    return kept


def find_input(folder: Path, key: bytes, site: int, context: bytes) -> KeptInput | None:
    """Return what site ``site`` put into the sum with this context; None where it is not among those still kept."""
    for path in sorted(folder.glob("*.sealed")):
        try:
            kept = read_input(path, key, site)
        except InputError:  # of another cohort, in which this site has another number, or of an earlier key
            continue
        if kept.opening.context == context:
            return kept
    return None


def inputs_key(identity: ed25519.Ed25519PrivateKey) -> bytes:
    """Return the key (32 bytes) of a site's kept inputs, which follows from its identity key."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"fedkt3d:kept inputs:v1").derive(identity.private_bytes_raw())
