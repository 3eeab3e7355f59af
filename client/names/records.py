"""What a patient's record says of its structures, and what was made of it: drawings, prescriptions, review rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.names.tg263 import BODY
from shared_model.patient.anatomy import is_known

Points = NDArray[np.float64]

MAPPED, AMBIGUOUS, UNMAPPED, IGNORED = "mapped", "ambiguous", "unmapped", "ignored"


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


@dataclass(frozen=True, kw_only=True)
class NameRow:
    """One row of the review table. ``name`` is the record's own and may hold a person's name: for the site's screen.

    ``tg263`` is the name that it was given, empty for none; ``how`` says by what. ``used`` tells whether the model
    knows it. ``candidates`` are TG-263 names that look alike. ``target``: by name or type it is a target, whatever
    became of it; ``prescription_gy`` is then the level that its name or the plan gives it, if any.
    """

    number: int
    name: str = field(repr=False)
    kind: str
    status: str
    tg263: str = ""
    how: str
    prescription_gy: float | None = None
    candidates: tuple[str, ...] = ()
    target: bool = False

    @property
    def used(self) -> bool:
        """Whether it becomes part of the Case."""
        return self.status == MAPPED and (self.tg263 == BODY or is_known(self.tg263))
