"""The pickled dictionary of a GDP-HMM npz, read without the power of pickle: arrays, numbers, text and containers.

Nothing that the file names is ever looked up or called. The three names that numpy's own arrays and numbers need become
the classes below. They build an array from a checked type, a shape and exactly as many bytes. Any other name stops the
reading. We use the Python unpickler on purpose: the C one takes as much memory for its memo as a file claims.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from client.data.npz import MAX_BYTES, Array
from shared_model.core.errors import InputError

# A patient's dictionary takes some thousand steps.
_MAX_STEPS = 100_000
_NUMBER = re.compile(r"[biuf][1248]")


class _Dtype:
    """numpy.dtype of plain numbers, or of objects for the one array that holds the dictionary."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def plain(self) -> np.dtype[Any]:
        if _NUMBER.fullmatch(self.code) is None:
            raise InputError(f"holds an array of type {self.code[:20]!r}; expected plain numbers")
        return np.dtype(self.order + self.code)


class _Array:
    """numpy.ndarray, empty until its state comes."""

    def __init__(self, *_: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if dtype.code == "O8":
            (self.value,) = content
        else:
            flat: Array = np.frombuffer(content, dtype=dtype.plain())
            self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Number:
    """A numpy number, such as np.float32(3)."""

    def __init__(self, dtype: _Dtype, content: bytes) -> None:
        (number,) = np.frombuffer(content, dtype=dtype.plain()).tolist()
        self.value: float = number

    def __setstate__(self, state: object) -> None:
        raise InputError("holds a number with a state; expected plain numbers")


_KNOWN: dict[tuple[str, str], type[Any]] = {("numpy", "dtype"): _Dtype, ("numpy", "ndarray"): _Array}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN |= {(_core, "_reconstruct"): _Array, (_core, "scalar"): _Number}


class _Steps(dict[int, Any]):
    """pickle's table of operations, for a limited number of steps."""

    left = _MAX_STEPS

    def __getitem__(self, key: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise InputError(f"takes more than {_MAX_STEPS} steps to read; expected one patient's dictionary")
        return super().__getitem__(key)


class _Restricted(pickle._Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.dispatch = _Steps(pickle._Unpickler.dispatch)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> type[Any]:
        try:
            return _KNOWN[module, name]
        except KeyError:
            wanted = f"{module}.{name}"[:60]
            raise InputError(
                f"asks for {wanted!r}, which is not an array, number, text or container; refused and not run"
            ) from None


def read_dictionary(path: Path) -> dict[str, Any]:
    """The dictionary in ``arr_0`` of an npz file, with numpy arrays and plain Python values.

    Raises InputError naming the file if it is missing, damaged, above MAX_BYTES, or holds anything but numbers, text,
    containers and arrays of numbers. No code of the file is run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if "arr_0.npy" not in archive.namelist():
                raise InputError("missing array 'arr_0'; expected a GDP-HMM npz with one pickled dictionary")
            size = archive.getinfo("arr_0.npy").file_size
            if size > MAX_BYTES:
                raise InputError(f"'arr_0' claims {size} bytes; expected at most {MAX_BYTES}")
            with archive.open("arr_0.npy") as member:
                return _dictionary(member)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a GDP-HMM npz") from None
    except Exception as error:  # damage can raise anything in zipfile, zlib, numpy's headers and pickle
        raise InputError(f"{path}: truncated or not a GDP-HMM npz ({type(error).__name__}); copy it again") from None


def _dictionary(member: IO[bytes]) -> dict[str, Any]:
    old = np.lib.format.read_magic(member) == (1, 0)
    parse = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    _, _, dtype = parse(member)
    if not dtype.hasobject:
        raise InputError(f"'arr_0' holds {dtype}; expected one pickled dictionary")
    array = _Restricted(member).load()
    content = array.value if isinstance(array, _Array) else array
    if not isinstance(content, dict):
        raise InputError(f"'arr_0' holds a {type(content).__name__}; expected one dictionary")
    return {key: _plain(value) for key, value in content.items() if isinstance(key, str)}


def _plain(value: Any) -> Any:
    if isinstance(value, (_Array, _Number)):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) and len(value) < 100 else value
