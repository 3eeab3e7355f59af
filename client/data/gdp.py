"""Reader for the GDP-HMM challenge (AAPM 2025; Gao et al. 2025, arXiv 2501.11803): one npz a plan -> Case.

Keys, units and axes are those of the challenge's repository, github.com/RiqiangGao/GDP-HMM_AAPMChallenge: DICOM2NPZ.py
writes the files, data_loader.py reads them, PTV_DICT.json tells the prescriptions.
- ``img`` is CT in HU; it, ``dose``, ``beam_plate`` and every structure by its own name are (z, y, x) on one grid.
- ``spacing``, ``origin`` and ``direction`` are SimpleITK's, in the order (x, y, z); ``isocenter`` is (z, y, x), voxels.
- ``dose`` times ``dose_scale`` is the plan's dose, which the loader scales until 97% of the highest target has its
  prescription, and sets to 0 outside ``Body``.
- ``angle_plate`` is one slice (y, x), which the loader copies into the slices z - 5 to z + 4 about the isocentre.
- File names are PATIENT+PLAN+..., and PATIENT is the key of PTV_DICT.json, filled with zeros to three characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.data.gdp_pickle import read_dictionary
from client.data.npz import Array
from client.names.records import Roi
from client.names.rows import NameRow
from client.names.rules import NameRules
from client.names.table import name_table
from client.names.tg263 import BODY
from client.site.config import GDP_PRESCRIPTIONS
from shared_model.core.errors import InputError, naming
from shared_model.patient.anatomy import is_target, target_name
from shared_model.patient.case import MAX_DOSE_GY, Case, Mask, Volume
from shared_model.patient.geometry import Grid, Triple

# What DICOM2NPZ.py resamples to, (x, y, z); the challenge's first files do not say it.
_SPACING_XYZ_MM = [2.5, 2.5, 2.0]
_UPRIGHT = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
_ANGLE_SLICES = (-5, 5)
# Arrays that are not structures.
_VOLUMES = ("img", "dose", "beam_plate")
# Which structure a level is prescribed to: data_loader.py takes the optimiser's form of the highest target alone.
_LEVELS = {"PTV_High": "OPTName", "PTV_Mid": "StructName", "PTV_Low": "StructName"}


def read_gdp(path: Path, case_id: str, rules: NameRules | None = None) -> tuple[Case, tuple[NameRow, ...]]:
    """Read one plan as a Case in LPS, and the review table of its structures; ``rules`` are the site's own for organs.

    Only the targets of PTV_DICT.json beside the file are used; a lower target loses the part that a higher one covers.
    Organs are matched by TG-263 spelling, so that BrainStem_03 and Larynx-PTV are not organs. Plates and dose are
    absent if the file has none. Raises InputError naming the file, the key and what is wrong with it.
    """
    prescribed = _prescriptions(path)
    content = read_dictionary(path)
    with naming(path):
        shape = _array(content, "img", 3).shape
        grid, signs = _grid(content, shape)
        body = _volume(content, BODY, shape) > 0.5
        dose = _dose_gy(content, prescribed, body) if "dose" in content else None
        targets = _targets(content, prescribed, shape)
        names = _names(content, rules or NameRules())
        organs = _organs(content, shape, names)

        def turned(volume: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if volume is None else _flip(_single(volume), signs)

        case = Case(
            case_id=case_id,
            grid=grid,
            body=_flip(body, signs),
            structures={name: _flip(mask, signs) for name, mask in (organs | targets).items()},
            prescriptions_gy={name: int(name.removeprefix("PTV_")) / 100 for name in targets},
            ct_hu=turned(content["img"]),
            beam_plate=turned(_beam_plate(content, shape)),
            angle_plate=turned(_angle_plate(content, shape)),
            dose_gy=turned(dose),
        )
        return case, names


def _prescriptions(path: Path) -> dict[str, float]:
    """Prescription in Gy by the file's own name of the target, highest level first."""
    table = path.parent / GDP_PRESCRIPTIONS
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{table}: cannot be read ({error.strerror}); expected the prescriptions there") from None
    except (ValueError, RecursionError):
        raise InputError(f"{table}: is not JSON; copy it again from the challenge") from None
    patient = path.stem.partition("+")[0].rjust(3, "0")
    levels = content.get(patient) if isinstance(content, dict) else None
    if not isinstance(levels, dict) or "PTV_High" not in levels:
        raise InputError(
            f"{path}: {GDP_PRESCRIPTIONS} has no 'PTV_High' for this patient; add it, or leave the file out"
        )
    found: dict[str, float] = {}
    for level, key in _LEVELS.items():
        if level not in levels:
            continue
        try:
            found[str(levels[level][key])] = dose_gy = float(levels[level]["PDose"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: {GDP_PRESCRIPTIONS}: {level}: expected {key!r} and 'PDose' in Gy") from None
        if not 0 < dose_gy < MAX_DOSE_GY:
            raise InputError(f"{path}: {GDP_PRESCRIPTIONS}: {level}: 'PDose' {dose_gy}; expected 0 to {MAX_DOSE_GY} Gy")
    return found


def _array(content: Mapping[str, Any], key: str, dimensions: int) -> Array:
    if key not in content:
        raise InputError(f"missing key {key!r}; expected a GDP-HMM plan")
    array: Any = content[key]
    if not isinstance(array, np.ndarray) or array.ndim != dimensions:
        found = array.shape if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise InputError(f"{key!r} is {found}; expected an array of {dimensions} dimensions")
    return array


def _volume(content: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> Array:
    array = _array(content, key, 3)
    if array.shape != shape:
        raise InputError(f"{key!r} has shape {array.shape}, 'img' {shape}; expected the same")
    return array


def _numbers(content: Mapping[str, Any], key: str, count: int, default: list[float] | None = None) -> list[float]:
    value = content.get(key, default)
    try:
        numbers = [float(number) for number in np.ravel(value)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(f"{key!r}: {'is missing' if value is None else 'is wrong'}; expected {count} finite numbers")
    return numbers


def _grid(content: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[Grid, list[int]]:
    """The grid in LPS, and which way (1, -1) each of the file's axes (z, y, x) runs along it."""
    direction = np.reshape(_numbers(content, "direction", 9, _UPRIGHT), (3, 3))
    signs = [int(sign) for sign in np.rint(np.diag(direction))[::-1]]
    if 0 in signs or not np.allclose(np.abs(direction), np.eye(3), atol=1e-3):
        raise InputError("'direction' is oblique; expected axes along the patient's")
    spacing = _numbers(content, "spacing", 3, _SPACING_XYZ_MM)[::-1]
    origin = _numbers(content, "origin", 3, [0.0, 0.0, 0.0])[::-1]
    ends = [o - (n - 1) * s if sign < 0 else o for o, n, s, sign in zip(origin, shape, spacing, signs, strict=True)]
    return Grid((shape[0], shape[1], shape[2]), _triple(spacing), _triple(ends)), signs


def _triple(values: list[float]) -> Triple:
    return (values[0], values[1], values[2])


def _flip(volume: Array, signs: list[int]) -> Array:
    return np.ascontiguousarray(volume[tuple(slice(None, None, sign) for sign in signs)])


def _single(volume: Array) -> Volume:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which Case refuses
        return volume.astype(np.float32)


def _dose_gy(content: Mapping[str, Any], prescribed: Mapping[str, float], body: Mask) -> Volume:
    dose = _volume(content, "dose", body.shape).astype(np.float64)
    dose *= _numbers(content, "dose_scale", 1)[0]
    highest, level_gy = next(iter(prescribed.items()))
    inside = dose[_volume(content, highest, body.shape) > 0.5]
    d97_gy = float(np.percentile(inside, 3)) if inside.size else 0.0
    if not d97_gy > 0:
        raise InputError(f"'dose': 97% of the target {highest!r} have {d97_gy:.3g} Gy; expected a dose above 0")
    return np.where(body, np.maximum(dose * (level_gy / d97_gy), 0), 0).astype(np.float32)


def _targets(content: Mapping[str, Any], prescribed: Mapping[str, float], shape: tuple[int, ...]) -> dict[str, Mask]:
    masks: dict[str, Mask] = {}
    for name, level_gy in prescribed.items():
        mask = _volume(content, name, shape) > 0.5
        masks[target_name(level_gy)] = masks.get(target_name(level_gy), np.zeros(shape, dtype=bool)) | mask
    covered = np.zeros(shape, dtype=bool)
    for name in sorted(masks, reverse=True):
        masks[name] = masks[name] & ~covered
        covered |= masks[name]
    return {name: mask for name, mask in masks.items() if mask.any()}


def _names(content: Mapping[str, Any], rules: NameRules) -> tuple[NameRow, ...]:
    """Make the review table of the structures, without the challenge's own volumes. Targets are not read from it."""
    points, counts = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    names = [
        name
        for name, value in content.items()
        if isinstance(value, np.ndarray) and value.ndim == 3 and name not in _VOLUMES
    ]
    rois = [Roi(number=n, name=name, kind="", points_mm=points, counts=counts) for n, name in enumerate(names)]
    return tuple(row for row in name_table(rois, (), rules) if not row.name.lower().startswith("ptv"))


def _organs(content: Mapping[str, Any], shape: tuple[int, ...], rows: tuple[NameRow, ...]) -> dict[str, Mask]:
    used = {row.tg263: row.name for row in rows if row.used and row.tg263 != BODY and not is_target(row.tg263)}
    masks = {tg263: _volume(content, name, shape) > 0.5 for tg263, name in used.items()}
    return {tg263: mask for tg263, mask in masks.items() if mask.any()}


def _beam_plate(content: Mapping[str, Any], shape: tuple[int, ...]) -> Array | None:
    return _volume(content, "beam_plate", shape) if "beam_plate" in content else None


def _angle_plate(content: Mapping[str, Any], shape: tuple[int, ...]) -> Array | None:
    if "angle_plate" not in content:
        return None
    flat = _array(content, "angle_plate", 2)
    if flat.shape != shape[1:]:  # as the challenge's loader does with a slice of another size
        flat = ndimage.zoom(flat, (shape[1] / flat.shape[0], shape[2] / flat.shape[1]), order=0)
    plate = np.zeros(shape, dtype=np.float32)
    middle = int(_numbers(content, "isocenter", 3)[0])
    plate[max(middle + _ANGLE_SLICES[0], 0) : max(middle + _ANGLE_SLICES[1], 0)] = flat
    return plate
