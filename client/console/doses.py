"""One prediction on the page: its numbers, its DVHs as SVG paths, its slices as PNG.

It reads what `client predict` wrote (client/prediction/files.py): ``report.json``, ``dvh.csv``, ``dose.npz`` and
``view.npz``, which holds the grey anatomy and the structures' outlines. None of them holds an identifier.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.npz import read_arrays
from shared_model.core.errors import InputError

AXES = ("axial", "coronal", "sagittal")
WIDTH, HEIGHT = 480, 300  # of the DVHs' box
_LONGEST = 448  # pixels of a slice's longer side
_POINTS = 200
_WASH = 0.55
_SHOWN_FROM = 0.10  # of the highest dose: less is not washed
# Dark enough on white (3:1 or more), told apart by dashes too.
_COLOURS = ("#0072b2", "#b34700", "#007a5a", "#a3477f", "#6b4fa0", "#595959", "#8a6d00", "#2b6b8f")
_DASHES = ("", "6 3", "2 3")
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class DvhLine:
    """One structure's DVH: an SVG path in a box of WIDTH x HEIGHT, and how it is drawn. ``reference``: its own dose."""

    name: str
    path: str
    reference: str
    colour: str
    dash: str


class DoseFolder:
    """A folder that `client predict` wrote. InputError where it cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.record: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            shape = [int(n) for n in self.record["grid"]["shape"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: not a prediction of `client predict`, or damaged") from error
        self.counts = dict(zip(AXES, shape, strict=True))

    def told(self, key: str) -> str:
        """Return what the record says under ``key``, as text; empty where it says nothing."""
        return str(self.record.get(key, ""))

    def rows(self) -> list[tuple[str, str, float, float | None]]:
        """Return (structure, metric, predicted, reference) in Gy."""
        known = self.record.get("reference_gy", {})
        return [
            (*_two(key), float(value), None if key not in known else float(known[key]))
            for key, value in self.record.get("metrics_gy", {}).items()
        ]

    def dvhs(self) -> tuple[list[DvhLine], float]:
        """Return the curves and the dose at the right edge of their box, in Gy."""
        try:
            rows = list(csv.DictReader(io.StringIO((self.folder / "dvh.csv").read_text(encoding="utf-8"))))
            most = max((float(row["dose_gy"]) for row in rows), default=1.0) or 1.0
            points: dict[str, list[tuple[float, float, float | None]]] = defaultdict(list)
            for row in rows:
                own = row.get("reference_volume_percent") or None
                read = (float(row["dose_gy"]) / most, float(row["volume_percent"]), None if own is None else float(own))
                points[row["structure"]].append(read)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.folder}: its DVHs cannot be read") from error
        return [_line(number, name, found) for number, (name, found) in enumerate(points.items())], most

    def slice_png(self, axis: str, index: int) -> bytes:
        """Return a slice as PNG: anatomy in grey, the dose over it, the structures' outlines.

        ``index`` counts from the grid's start: from inferior, anterior or the patient's right.
        """
        if axis not in AXES or not 0 <= index < self.counts[axis]:
            raise InputError("no such slice")
        return _png(
            _drawn(_volumes(self.folder, (self.folder / "dose.npz").stat().st_mtime_ns), AXES.index(axis), index)
        )


def _two(key: str) -> tuple[str, str]:
    structure, _, metric = key.rpartition("/")
    return structure, metric


def _line(number: int, name: str, found: list[tuple[float, float, float | None]]) -> DvhLine:
    step = -(-len(found) // _POINTS)
    thin = found[::step] + found[-1:]
    own = [(x, y) for x, _, y in thin if y is not None]
    return DvhLine(
        name=name,
        path=_path([(x, y) for x, y, _ in thin]),
        reference=_path(own),
        colour=_COLOURS[number % len(_COLOURS)],
        dash=_DASHES[number // len(_COLOURS) % len(_DASHES)],
    )


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x * WIDTH:.1f} {(100 - y) / 100 * HEIGHT:.1f}" for x, y in points) if points else ""


@dataclass(frozen=True, kw_only=True)
class _Volumes:
    """Arrays (z, y, x): dose in Gy, grey 0..255; ``masks`` (n, z, y, x); the voxel's size in mm."""

    dose: Array
    grey: Array
    masks: Array
    spacing_mm: tuple[float, float, float]


@lru_cache(maxsize=1)
def _volumes(folder: Path, _changed: int) -> _Volumes:
    found = read_arrays(folder / "dose.npz", ("dose_gy", "spacing_mm"))
    dose = found["dose_gy"]
    grey, masks = np.zeros(dose.shape, np.uint8), np.zeros((0, *dose.shape), bool)
    if (folder / "view.npz").is_file():
        view = read_arrays(folder / "view.npz", ("grey", "masks"))
        grey = view["grey"]
        masks = np.unpackbits(view["masks"], axis=-1, count=dose.shape[-1]).astype(bool)
    if dose.ndim != 3 or grey.shape != dose.shape or masks.shape[1:] != dose.shape or found["spacing_mm"].shape != (3,):
        raise InputError(f"{folder}: its arrays do not fit together")
    z, y, x = (float(mm) for mm in found["spacing_mm"])
    return _Volumes(dose=dose, grey=grey, masks=masks, spacing_mm=(z, y, x))


def _drawn(volumes: _Volumes, axis: int, index: int) -> Array:
    """The slice (rows, columns, 3) in square pixels, superior or anterior at the top."""
    from matplotlib import colormaps

    rows_mm, columns_mm = (volumes.spacing_mm[a] for a in range(3) if a != axis)

    def cut(volume: Array) -> Array:
        plane = np.take(volume, index, axis=axis)
        return _square(plane if axis == 0 else plane[::-1], rows_mm, columns_mm)

    dose, top = cut(volumes.dose), float(volumes.dose.max()) or 1.0
    image = np.repeat(cut(volumes.grey)[..., None] / 255.0, 3, axis=2)
    share = np.clip(dose / top, 0.0, 1.0)
    washed = (share >= _SHOWN_FROM)[..., None] * _WASH
    image = image * (1 - washed) + colormaps["viridis"](share)[..., :3] * washed
    for number, mask in enumerate(volumes.masks):
        edge = _edge(cut(mask))
        image[edge] = [int(_COLOURS[number % len(_COLOURS)][k : k + 2], 16) / 510 + 0.5 for k in (1, 3, 5)]
    found: Array = (255 * image).astype(np.uint8)
    return found


def _square(plane: Array, rows_mm: float, columns_mm: float) -> Array:
    """The plane in square pixels, by its nearest voxels."""
    extent = (plane.shape[0] * rows_mm, plane.shape[1] * columns_mm)
    pixel_mm = max(extent) / _LONGEST
    where = [
        np.minimum((np.arange(max(1, round(mm / pixel_mm))) * n / max(1, round(mm / pixel_mm))).astype(int), n - 1)
        for mm, n in zip(extent, plane.shape, strict=True)
    ]
    found: Array = plane[np.ix_(where[0], where[1])]
    return found


def _edge(mask: Array) -> Array:
    """The inner border of a mask, one pixel wide."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    found: Array = mask & ~inside
    return found


def _png(image: Array) -> bytes:
    from matplotlib.image import imsave

    written = io.BytesIO()
    imsave(written, image, format="png")
    return written.getvalue()
