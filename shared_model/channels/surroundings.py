"""More features for the voxel base: distances to organs that planners spare, and a voxel's place in its slice.

The physics features cover targets, cord, parotids and brainstem. On OpenKBP, a base without the organs below gives
mandible, larynx and oesophagus 2 to 3 Gy too much on average. Planners spare these organs, and only their contours tell
where they are. The place is measured from the middle of the body in the slice, left and right alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared_model.channels.features import signed_distance_mm
from shared_model.patient.case import Case

ORGANS: tuple[str, ...] = ("Bone_Mandible", "Larynx", "Esophagus")
# An organ farther away than this, or absent, counts as this far.
FAR_MM = 60.0
# For each feature: centre and scale in mm. They are public round figures, not fitted to patients.
PLACE: dict[str, tuple[float, float]] = {
    "mandible_mm": (52.0, 15.0),
    "larynx_mm": (58.0, 7.0),
    "esophagus_mm": (58.0, 7.0),
    "from_middle_mm": (0.0, 50.0),
    "aside_mm": (60.0, 50.0),
    "width_mm": (260.0, 140.0),
}
NAMES: tuple[str, ...] = tuple(PLACE)


def surroundings(case: Case) -> NDArray[np.float32]:
    """Features (n, 6), columns NAMES, of the body's n voxels in C order, all in mm.

    They are the signed distances to ORGANS, the posterior distance from the middle of the body in the slice, the
    lateral distance from it (either side), and the width of the body in the slice.
    """
    body, spacing = case.body, case.grid.spacing_mm
    empty = np.zeros(case.grid.shape, dtype=bool)
    columns = [
        np.minimum(signed_distance_mm(case.structures.get(name, empty), spacing), FAR_MM)[body] for name in ORGANS
    ]
    z, y, x = np.nonzero(body)
    voxels = np.bincount(z, minlength=len(body)).clip(1)
    for axis, index in ((1, y), (2, x)):
        middle = np.bincount(z, index, minlength=len(body)) / voxels
        offset = (index - middle[z]) * spacing[axis]
        columns.append(offset if axis == 1 else np.abs(offset))
    widths = [np.ptp(np.flatnonzero(plane.any(axis=0))) * spacing[2] if plane.any() else 0.0 for plane in body]
    columns.append(np.array(widths)[z])
    return np.stack(columns, axis=1).astype(np.float32)
