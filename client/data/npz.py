"""Numpy archives from disk: read without pickle, every failure one clear InputError; written whole or not at all."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.core.errors import InputError
from shared_model.core.files import whole_file

Array = NDArray[Any]


# Far above one patient's largest volume. A header may claim any size, and memory is taken for what it claims.
MAX_BYTES = 2**30


def read_arrays(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Array]:
    """Read all ``required`` arrays of an npz file and those of ``optional`` that it holds, if they are plain numbers.

    Raises InputError naming the file, and the key if one is wrong, if the file is missing, is not an npz, is truncated
    or damaged (checksums are verified), holds anything but numbers, claims an array above MAX_BYTES, or lacks a
    required array.
    """
    if not _is_file(path):
        raise InputError(f"{path}: no such file; expected an npz archive of one case")
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            missing = [key for key in required if f"{key}.npy" not in members]
            if missing:
                raise InputError(f"{path}: missing array {missing[0]!r}; expected {', '.join(required)}")
            present = [key for key in (*required, *optional) if f"{key}.npy" in members]
            return {key: _read_array(archive, key, path) for key in present}
    except InputError:
        raise
    except Exception as error:  # damage can raise anything in zipfile, zlib and the parser of numpy's headers
        raise InputError(f"{path}: truncated or not an npz archive ({type(error).__name__}); copy it again") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _read_array(archive: zipfile.ZipFile, key: str, path: Path) -> Array:
    with archive.open(f"{key}.npy") as member:
        old = np.lib.format.read_magic(member) == (1, 0)
        parse = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = parse(member)
    if dtype.kind not in "biuf":
        raise InputError(f"{path}: {key!r} holds {dtype}; expected plain numbers, as in an npz archive of one case")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise InputError(f"{path}: {key!r} claims the shape {shape}; expected at most {MAX_BYTES} bytes")
    with archive.open(f"{key}.npy") as member:
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
    return array


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a compressed npz under ``path`` atomically: a crash leaves the old file or none, never half of one.

    Raises InputError if the folder cannot be written to.
    """
    with whole_file(path) as stream:
        np.savez_compressed(stream, **dict(arrays))  # type: ignore[arg-type]
