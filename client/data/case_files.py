"""Case files: one Case as one npz archive, versioned, readable without pickle.

Arrays: ``header`` (JSON, UTF-8 bytes), ``body`` (packed bits), ``masks`` (packed bits, one row for each structure of
the header) and, where present, ``ct_hu``, ``beam_plate``, ``angle_plate``, ``dose_gy`` (float32, axes z, y, x).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from client.data.npz import Array, read_arrays, write_arrays
from shared_model.core.errors import InputError
from shared_model.patient.case import Case, Mask
from shared_model.patient.geometry import Grid

SCHEMA = 1
_VOLUMES = ("ct_hu", "beam_plate", "angle_plate", "dose_gy")
_HEADER_KEYS = {"schema", "case_id", "shape", "spacing_mm", "origin_mm", "structures", "prescriptions_gy"}


# Written where the beams' directions are known.
_ANGLES = "gantry_deg"
# Only in the files of cases whose dose grid cuts an organ.
_CUT = "cut_by_dose"


def save_case(path: Path, case: Case) -> None:
    """Write ``case`` to ``path`` atomically; replace an existing file. Raises InputError if it cannot write."""
    header: dict[str, Any] = {
        "schema": SCHEMA,
        "case_id": case.case_id,
        "shape": case.grid.shape,
        "spacing_mm": case.grid.spacing_mm,
        "origin_mm": case.grid.origin_mm,
        "structures": list(case.structures),
        "prescriptions_gy": dict(case.prescriptions_gy),
        **({"gantry_deg": list(case.gantry_deg)} if case.gantry_deg else {}),
    }
    if case.cut_by_dose:
        header[_CUT] = list(case.cut_by_dose)
    masks = [np.packbits(mask) for mask in case.structures.values()]
    arrays: dict[str, Array] = {
        "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        "body": np.packbits(case.body),
        "masks": np.stack(masks) if masks else np.zeros((0, (case.body.size + 7) // 8), dtype=np.uint8),
    }
    for name in _VOLUMES:
        volume = getattr(case, name)
        if volume is not None:
            arrays[name] = np.asarray(volume, dtype=np.float32)
    write_arrays(path, arrays)


def load_case(path: Path) -> Case:
    """Read a case file. Raises InputError naming the file for anything that is missing, damaged or not valid."""
    arrays = read_arrays(path, ("header", "body", "masks"), optional=_VOLUMES)
    header = _header(arrays["header"], path)
    try:
        grid = Grid(_triple(header, "shape"), _triple(header, "spacing_mm"), _triple(header, "origin_mm"))
        names = header["structures"]
        if not isinstance(names, list) or len(set(names)) != len(names):
            raise InputError("header key 'structures': expected a list of names, none twice")
        if arrays["masks"].shape[:1] != (len(names),):
            raise InputError(f"'masks' holds {arrays['masks'].shape[:1]} masks for {len(names)} structures")
        rows = zip(names, arrays["masks"], strict=True)
        return Case(
            case_id=header["case_id"],
            grid=grid,
            body=_mask("body", arrays["body"], grid),
            structures={name: _mask(name, row, grid) for name, row in rows},
            prescriptions_gy={name: float(level) for name, level in header["prescriptions_gy"].items()},
            gantry_deg=tuple(float(angle) for angle in header.get("gantry_deg", ())),
            **{name: arrays[name].astype(np.float32) for name in _VOLUMES if name in arrays},
            cut_by_dose=_names(header.get(_CUT, []), names),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: the header or an array has a wrong type ({type(error).__name__})") from error


def _header(raw: Array, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(raw.astype(np.uint8).tobytes().decode())
    except (UnicodeDecodeError, ValueError):
        raise InputError(f"{path}: 'header' is not JSON; expected a case file") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else None
        raise InputError(f"{path}: case file of schema {found!r}; this version reads schema {SCHEMA}")
    if set(header) - {_ANGLES, _CUT} != _HEADER_KEYS:
        wrong = sorted((set(header) - {_ANGLES, _CUT}) ^ _HEADER_KEYS)[0]
        raise InputError(f"{path}: header key {wrong!r} is unknown or missing")
    if not isinstance(header["case_id"], str):
        raise InputError(f"{path}: header key 'case_id': expected text")
    return header


def _names(found: Any, known: list[str]) -> tuple[str, ...]:
    if not isinstance(found, list) or not set(found) <= set(known):
        raise InputError(f"header key {_CUT!r}: expected a list of the case's structures")
    return tuple(found)


def _triple(header: dict[str, Any], key: str) -> tuple[Any, Any, Any]:
    values = header[key]
    if not isinstance(values, list) or len(values) != 3:
        raise InputError(f"header key {key!r}: expected three numbers (z, y, x)")
    return (values[0], values[1], values[2])


def _mask(name: str, bits: Array, grid: Grid) -> Mask:
    voxels = int(np.prod(grid.shape))
    if bits.dtype != np.uint8 or bits.shape != ((voxels + 7) // 8,):
        raise InputError(f"mask {name} ({bits.dtype}, {bits.shape}) lies outside the grid {grid.shape}")
    return np.unpackbits(bits, count=voxels).reshape(grid.shape).astype(bool)
