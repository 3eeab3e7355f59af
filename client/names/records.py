"""What a patient's record says of its structures: each as drawn, and the doses prescribed to them.

The reading process loads this module, so it loads no table of names and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Roi:
    """One structure as drawn. ``points_mm`` (n, 3) in LPS (x, y, z), contour after contour; ``counts`` points of each.

    ``name`` and ``number`` are the record's own. ``kind`` is RTROIInterpretedType, such as PTV, ORGAN, EXTERNAL.
    ``other_shapes`` counts contours that were left out: points, which enclose nothing, and ``open_shapes``, which may
    be a part of the structure's outline. ``frame`` is the Frame of Reference that it was drawn in (empty: not said).
    ``fault`` says why its contours cannot be used; with a ``shared_number`` they may be another's. ``united`` are
    further structures that are one with it.
    """

    number: int
    name: str = field(repr=False)
    kind: str
    points_mm: Points = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    other_shapes: int = 0
    open_shapes: int = 0
    frame: str = field(repr=False, default="")
    fault: str = ""
    shared_number: bool = False
    united: tuple[Roi, ...] = field(repr=False, default=())


@dataclass(frozen=True, kw_only=True)
class Prescription:
    """A prescribed dose in Gy; ``roi`` is the structure's number in the structure set, None where none is named.
    ``point``: to a point (COORDINATES), not to a volume."""

    dose_gy: float
    roi: int | None
    point: bool = False
