"""A phantom patient as DICOM, for the tests of its readers; and what a reader should make of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dicom.find import find_studies
from client.dicom.join import DicomStudy
from client.site.pseudonyms import Pseudonyms
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from simulations.phantom.dicom import write_study
from simulations.phantom.dicom_files import Identity
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.phantom.planes import Scan, look_up

STYLE = STYLES["openkbp_like"]
PSEUDONYMS = Pseudonyms(bytes(range(32)))


@lru_cache(maxsize=4)
def patient(seed: int = 3, edge: int = 32) -> Case:
    """The phantom patient."""
    return phantom_case(seed, STYLE, (edge, edge, edge))


def written(folder: Path, scan: Scan, *, seed: int = 3, edge: int = 32, number: int = 0) -> DicomStudy:
    """The patient's study written to ``folder`` and found there."""
    write_study(folder, patient(seed, edge), scan, Identity.of_phantom(7, number), STYLE.plan.gantry_deg)
    (study,) = find_studies(folder, PSEUDONYMS).studies
    return study


def truth_on(grid: Grid, volume: NDArray[np.generic], case: Case, order: int, outside: float) -> NDArray[np.float64]:
    """A volume of ``case`` at the voxel centres of ``grid``."""
    z, y, x = np.meshgrid(*(grid.centres_mm(axis) for axis in range(3)), indexing="ij")
    return look_up(volume, case.grid, np.stack([x, y, z], axis=-1), order, outside)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Overlap of two masks, 1 for two empty ones."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
