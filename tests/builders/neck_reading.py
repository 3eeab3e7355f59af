"""Reading a neck study from files as a hospital would, and what tests ask of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dicom.find import Findings, find_studies
from client.dicom.study import Reading, read_case
from client.names.rules import NameRules
from client.setup.check_patient import CheckedPatient
from client.setup.check_patients import Source, look
from client.site.config import DICOM
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from tests.builders.neck_study import NeckStudy

PSEUDONYMS = Pseudonyms(bytes(range(32)))


def found(folder: Path) -> Findings:
    """Everything below ``folder``."""
    return find_studies(folder, PSEUDONYMS)


def read(study: NeckStudy, folder: Path, rules: str = "") -> Reading:
    """Write the study and read its one plan; a CT without a structure set is none."""
    (plan,) = (s for s in found(study.write(folder)).studies if s.structures is not None)
    return read_case(plan, NameRules.parse(rules, "structures.yaml"))


def refusal(study: NeckStudy, folder: Path, rules: str = "") -> str:
    """Why the study cannot be read; fails if it can."""
    try:
        reading = read(study, folder, rules)
    except InputError as error:
        return str(error)
    raise AssertionError(f"was read with targets {reading.case.prescriptions_gy} and notes {reading.notes}")


def checked(folder: Path) -> CheckedPatient:
    """The one row of `client check`."""
    (row,) = look(Source(kind=DICOM, root=folder, pseudonyms=PSEUDONYMS), None).patients
    return row


def cc(reading: Reading, name: str) -> float:
    """Volume of a structure, 0 where there is none."""
    mask = reading.case.structures.get(name)
    return 0.0 if mask is None else float(mask.sum()) * reading.case.grid.voxel_cc


def dose_of(reading: Reading, name: str) -> NDArray[np.float32]:
    """Dose of a structure's voxels in Gy."""
    assert reading.case.dose_gy is not None
    return reading.case.dose_gy[reading.case.structures[name]]
