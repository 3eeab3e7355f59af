"""What a patient's record says of its structures: each as drawn, and the doses prescribed to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Roi:
    """One structure as drawn. ``points_mm`` (n, 3) in LPS (x, y, z), contour after contour; ``counts`` points of each.

    ``name`` and ``number`` are the record's own. ``kind`` is RTROIInterpretedType, such as PTV, ORGAN, EXTERNAL.
    ``other_shapes`` counts points and open lines, which enclose nothing.
    """

    number: int
    name: str = field(repr=False)
    kind: str
    points_mm: Points = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    other_shapes: int = 0


@dataclass(frozen=True, kw_only=True)
class Prescription:
    """A prescribed dose in Gy; ``roi`` is the structure's number in the structure set, None where none is named."""

    dose_gy: float
    roi: int | None
