"""The last vectors that a site put into secure sums, kept at the site so that it can show them in an audit.

What a site signs hides the vector (``input_commitment`` in privacy/secagg/site.py); salt and vector open it. The folder
holds one ``.npz`` (mode 0600) for each of the last few sums: the vector that left the site masked, noise included. The
file itself never leaves unless the site hands it over.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from privacy.secagg.masks import Ring
from privacy.secagg.site import Opening, input_commitment
from shared_model.core.errors import InputError
from shared_model.core.files import write_bytes

KEEP = 4


class SecureInputs:
    """A folder of kept vectors, made on first use. With ``keep`` 0 it keeps none."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._folder, self._keep = folder, keep

    def keep(self, run_id: str, round_number: int, commitment: bytes, opening: Opening, vector: Ring) -> None:
        """Write one sum's input durably and delete the oldest beyond ``keep``; InputError when the disk is full."""
        if self._keep == 0:
            return
        content = io.BytesIO()
        np.savez(
            content,
            run=np.array(run_id),
            round=np.array(round_number),
            context=np.frombuffer(opening.context, np.uint8),
            salt=np.frombuffer(opening.salt, np.uint8),
            commitment=np.frombuffer(commitment, np.uint8),
            vector=vector,
        )
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = max((int(path.stem) for path in self._files()), default=0) + 1
            write_bytes(self._folder / f"{number:08d}.npz", content.getvalue())
            for path in self._files()[: -self._keep]:
                path.unlink()
        except OSError as error:
            raise InputError(f"{self._folder}: cannot be written ({error.strerror}); make room") from error

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.npz") if path.stem.isdigit())


def check_input(path: Path, site: int) -> tuple[str, int, bytes]:
    """Return (run id, round, commitment) of a kept input whose commitment it opens; InputError when it does not."""
    try:
        with np.load(path, allow_pickle=False) as found:
            commitment = found["commitment"].tobytes()
            made = input_commitment(found["context"].tobytes(), site, found["salt"].tobytes(), found["vector"])
            run_id, round_number = str(found["run"]), int(found["round"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an input that was kept ({type(error).__name__})") from error
    if made != commitment:
        raise InputError(f"{path}: the vector is not the one that was committed to")
    return run_id, round_number, commitment
