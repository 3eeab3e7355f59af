"""One image plane in the patient's coordinates. The reading process loads it, so it loads nothing itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImagePlane:
    """One image plane in the patient's coordinates (LPS, mm): ``position`` of the first pixel's centre (x, y, z),
    directions of a row and of a column, ``spacing`` between rows and between columns, and how many there are."""

    position: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    spacing: tuple[float, float]
    rows: int
    columns: int
