"""How dose falls off around phantoms' targets, as means over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared_model.patient.case import Case

EDGES_MM = ((0, 10), (10, 20), (20, 30), (30, 50), (50, 80))


def dose_falloff(patients: Sequence[Case]) -> tuple[NDArray[np.floating], float]:
    """Mean dose (Gy) in the shells of EDGES_MM within the targets' slices, and more than 14 mm past the last slice."""
    shells, beyond = [], []
    for case in patients:
        assert case.dose_gy is not None
        targets = case.ptv_gy() > 0
        slices = np.flatnonzero(targets.any(axis=(1, 2)))
        in_slice = np.zeros_like(targets)
        in_slice[slices[0] : slices[-1] + 1] = True
        distance = ndimage.distance_transform_edt(~targets, sampling=case.grid.spacing_mm)
        inside = case.body & in_slice
        shells.append([case.dose_gy[inside & (distance > a) & (distance <= b)].mean() for a, b in EDGES_MM])
        height = np.arange(targets.shape[0])
        past_mm = np.maximum(slices[0] - height, height - slices[-1]) * case.grid.spacing_mm[0]
        beyond.append(case.dose_gy[case.body & (past_mm > 14)[:, None, None]].mean())
    return np.mean(shells, axis=0), float(np.mean(beyond))
