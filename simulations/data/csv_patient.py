"""One OpenKBP patient as the challenge hands him out: a folder of CSV files, one sparse volume each -> whole volumes.

A file names the voxels that are not zero, by their index into 128 x 128 x 128 in C order. ``ct.csv`` and ``dose.csv``
give a value beside each index, masks give the index alone. ``voxel_dimensions.csv`` holds three sizes in millimetres.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from shared_model.core.errors import InputError

SHAPE = (128, 128, 128)
VOXELS = 128**3
TARGETS = ("PTV56", "PTV63", "PTV70")
# In the order of the array ``masks`` of the npz form.
STRUCTURES = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible", *TARGETS)
REQUIRED = ("dose", "possible_dose_mask", "voxel_dimensions")
VOLUMES = ("ct", *REQUIRED, *STRUCTURES)

_MOST_BYTES = 2**28  # four times the longest file that 128^3 voxels can fill
_MOST_GY, _LEAST_GY = 150.0, 10.0
_VOXEL_MM = (0.5, 10.0)
_LEAST_MEAN_CT = 300.0  # stored CT is about HU + 1000, so that bodies lie near 1000


@dataclass(frozen=True, kw_only=True)
class CsvPatient:
    """A patient's volumes (128, 128, 128) in the data set's axes, and the names in VOLUMES of what he lacks.

    ``ct`` is as stored (about HU + 1000), ``dose_gy`` in Gy, ``masks`` (10, 128, 128, 128) in the order of STRUCTURES.
    """

    ct: NDArray[np.float64] | None
    dose_gy: NDArray[np.float64]
    body: NDArray[np.bool_]
    masks: NDArray[np.bool_]
    voxel_mm: NDArray[np.float64]
    missing: tuple[str, ...]


def missing_volumes(folder: Path) -> tuple[str, ...]:
    """The names in VOLUMES that have no CSV file in ``folder``."""
    return tuple(name for name in VOLUMES if not _path(folder, name).is_file())


def read_csv_patient(folder: Path) -> CsvPatient:
    """Read one patient's folder. CT and single structures may be missing.

    Raises InputError naming the file, the line where one is to blame, and what was expected there.
    """
    missing = missing_volumes(folder)
    for name in REQUIRED:
        if name in missing:
            raise InputError(f"{_path(folder, name)}: no such file; a patient needs {', '.join(REQUIRED)} and a target")
    if set(TARGETS) <= set(missing):
        raise InputError(f"{folder}: no target; expected at least one of {', '.join(f'{t}.csv' for t in TARGETS)}")
    body = _read_mask(_path(folder, "possible_dose_mask"))
    masks = np.zeros((len(STRUCTURES), VOXELS), dtype=bool)
    for row, name in enumerate(STRUCTURES):
        if name not in missing:
            masks[row] = _read_mask(_path(folder, name))
    return CsvPatient(
        ct=None if "ct" in missing else _read_ct(_path(folder, "ct")).reshape(SHAPE),
        dose_gy=_read_dose(_path(folder, "dose"), body).reshape(SHAPE),
        body=body.reshape(SHAPE),
        masks=masks.reshape(-1, *SHAPE),
        voxel_mm=_read_voxel_mm(_path(folder, "voxel_dimensions")),
        missing=missing,
    )


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.csv"


def _read_dose(path: Path, body: NDArray[np.bool_]) -> NDArray[np.float64]:
    index, values = _read_sparse(path, valued=True)
    _refuse(path, values < 0, "a dose in Gy of at least 0", values)
    largest = float(values.max())
    if largest > _MOST_GY:
        raise InputError(f"{path}: the largest dose is {largest:g}; expected Gy, at most {_MOST_GY:g}; is it in cGy?")
    if largest < _LEAST_GY:
        raise InputError(f"{path}: the largest dose is {largest:g}; expected Gy, at least {_LEAST_GY:g}")
    _refuse(path, (values > 0) & ~body[index], "an index inside possible_dose_mask.csv", index)
    return _filled(index, values)


def _read_ct(path: Path) -> NDArray[np.float64]:
    index, values = _read_sparse(path, valued=True)
    mean = float(values.mean())
    if mean < _LEAST_MEAN_CT:
        raise InputError(f"{path}: the mean CT value is {mean:g}; expected about 1000 (HU + 1000); is it in HU?")
    return _filled(index, values)


def _read_mask(path: Path) -> NDArray[np.bool_]:
    index, _ = _read_sparse(path, valued=False)
    mask = np.zeros(VOXELS, dtype=bool)
    mask[index] = True
    return mask


def _read_voxel_mm(path: Path) -> NDArray[np.float64]:
    low, high = _VOXEL_MM
    words = _content(path).split()
    try:
        sizes = np.array([float(word) for word in words])
    except ValueError:
        sizes = np.array([])
    if sizes.shape != (3,) or not ((sizes >= low) & (sizes <= high)).all():
        found = b" ".join(words)[:60].decode(errors="replace") or "nothing"
        raise InputError(f"{path}: found {found}; expected three voxel sizes in mm, {low:g} to {high:g}, a line each")
    return sizes


def _read_sparse(path: Path, *, valued: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The indices of a sparse volume, each once, and the finite values beside them (none of a mask)."""
    _, _, body = _content(path).replace(b"\r\n", b"\n").partition(b"\n")
    body = body.rstrip(b"\n") + b"\n"
    if body == b"\n":
        raise InputError(f"{path}: holds no voxel; expected an index a line below the header ',data'")
    wanted = "an index, a comma and a value" if valued else "an index and a comma, as masks have no values"
    ends, commas = (np.flatnonzero(np.frombuffer(body, np.uint8) == ord(sign)) for sign in "\n,")
    ordered = len(commas) == len(ends) and bool((commas < ends).all() and (commas[1:] > ends[:-1]).all())
    if not ordered or (not valued and not np.array_equal(commas, ends - 1)):
        _blame(path, body, valued, wanted)
    numbers = _numbers(body.replace(b"\n", b",") if valued else body.replace(b"\n", b""))
    if len(numbers) != len(ends) * (2 if valued else 1):
        _blame(path, body, valued, wanted)
    pairs = numbers.reshape(len(ends), -1)
    index, values = pairs[:, 0], pairs[:, 1] if valued else pairs[:, 0]
    _refuse(path, ~np.isfinite(values), "a finite value", values)
    fits = (index >= 0) & (index < VOXELS) & (index == np.floor(index))
    _refuse(path, ~fits, f"a whole index from 0 to {VOXELS - 1}", index)
    whole = index.astype(np.int64)
    first = np.full(VOXELS, -1)
    first[whole[::-1]] = np.arange(len(whole))[::-1]  # of a voxel's lines the first stays
    _refuse(path, first[whole] != np.arange(len(whole)), "each index once", index)
    return whole, values


def _numbers(text: bytes) -> NDArray[np.float64]:
    """The numbers up to the first that is none; numpy only warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return np.fromstring(text.rstrip(b","), sep=",")
        except ValueError:
            return np.array([])


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: is larger than any volume of 128 x 128 x 128 voxels; expected a sparse CSV file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _filled(index: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    volume = np.zeros(VOXELS)
    volume[index] = values
    return volume


def _refuse(path: Path, wrong: NDArray[np.bool_], wanted: str, found: NDArray[Any]) -> None:
    """Raise InputError for the first row that is wrong."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{path}, line {row + 2}: found {found[row]:.10g}; expected {wanted}")  # the header is line 1


def _blame(path: Path, body: bytes, valued: bool, wanted: str) -> NoReturn:
    """Name the first line that is none: the slow way, taken for a broken file alone."""
    for row, line in enumerate(body.rstrip(b"\n").split(b"\n")):
        if not _is_row(line, valued):
            shown = line[:40].decode(errors="replace")
            raise InputError(f"{path}, line {row + 2}: found {shown!r}; expected {wanted}")
    raise InputError(f"{path}: cannot be read as numbers; expected {wanted}, a line each")


def _is_row(line: bytes, valued: bool) -> bool:
    cells = line.split(b",")
    if len(cells) != 2 or (not valued and cells.pop()):
        return False
    try:
        return all(float(cell) == float(cell) for cell in cells)
    except ValueError:
        return False
