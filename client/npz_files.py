"""Numpy archives from disk: read without pickle, every failure one clear InputError; written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import InputError

Array = NDArray[Any]


def read_arrays(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Array]:
    """All ``required`` arrays of an npz file and those of ``optional`` that it holds.

    Raises InputError naming the file, and the key where one is to blame, if the file is missing, is no npz, is
    truncated or damaged (checksums are verified), holds pickled objects, or lacks a required array.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an npz archive of one case")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a single npy array; expected an npz archive with {', '.join(required)}")
            missing = [key for key in required if key not in archive.files]
            if missing:
                raise InputError(f"{path}: missing array {missing[0]!r}; expected {', '.join(required)}")
            return {key: archive[key] for key in (*required, *optional) if key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: truncated or not an npz archive ({type(error).__name__}); copy it again") from error


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a compressed npz under ``path`` atomically: a crash leaves the old file or none, never half of one.

    Raises InputError if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".partial")
    except OSError as error:
        raise InputError(f"{path}: cannot write here ({error.strerror}); choose another folder") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, **dict(arrays))  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
