"""Rules that split OpenKBP over hospitals: by the voxels' size, by number, by chance.

A rule needs the cohort alone, so that anybody who has the data set gets the same hospitals. Every patient belongs to
one hospital. A rule by chance orders the patients of a split by a hash of their names: it needs no random numbers, and
a patient more or less hardly moves the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial


@dataclass(frozen=True, kw_only=True)
class CohortPatient:
    """What a rule may know of a patient: his split, his native voxels in mm (in plane, between slices), his targets."""

    case_id: str
    split: str
    in_plane_mm: float
    slice_mm: float
    targets: int


@dataclass(kw_only=True)
class Hospital:
    """A hospital's case ids, in the order of their numbers."""

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)


Assignment = dict[str, list[CohortPatient]]
Rule = Callable[[Sequence[CohortPatient]], Assignment]

_QUANTITY_PERCENT = (30, 20, 15, 12, 9, 6, 5, 3)
# hospitals_8: a hospital with fewer validation patients than this sets its last training patients aside for tests of
# its own, while it keeps so many to train on.
_LEAST_VALIDATION, _LEAST_TRAINING = 2, 4


def hospital_of_four(patient: CohortPatient) -> str:
    """A: 3.9 x 2.5 mm. B: 3.9 mm with another spacing, and 3.6 to 3.85 mm. C: 4.7 x 3.0 mm. D: all others."""
    if 3.5 <= patient.in_plane_mm < 3.95:
        return "A" if patient.in_plane_mm >= 3.89 and _is(patient.slice_mm, 2.5) else "B"
    return "C" if 4.605 <= patient.in_plane_mm < 4.72 and _is(patient.slice_mm, 3.0) else "D"


def hospital_of_eight(patient: CohortPatient) -> str:
    """A is split by its targets (H1: three, H2: fewer), B into 3.9 mm (H3) and less (H4), C is H5, D is split into
    5.08 mm (H6), thin slices (H7) and slices of 3 mm (H8)."""
    family = hospital_of_four(patient)
    if family == "A":
        return "H1" if patient.targets == 3 else "H2"
    if family == "B":
        return "H3" if patient.in_plane_mm >= 3.89 else "H4"
    if family == "C":
        return "H5"
    if 5.05 <= patient.in_plane_mm < 5.1:
        return "H6"
    return "H7" if patient.slice_mm < 2.9 else "H8"


def _is(value_mm: float, expected_mm: float) -> bool:
    return abs(value_mm - expected_mm) < 0.005


def _by_voxels(of: Callable[[CohortPatient], str], patients: Sequence[CohortPatient]) -> Assignment:
    names = sorted({of(patient) for patient in patients})
    return {name: [patient for patient in patients if of(patient) == name] for name in names}


def _by_chance(seed: str, shares: Sequence[int], patients: Sequence[CohortPatient]) -> Assignment:
    """Hospital S1, S2, ... gets its share of each split, rounded, of patients in the order of their names' hash."""
    found: Assignment = {f"S{number + 1}": [] for number in range(len(shares))}
    for split in sorted({patient.split for patient in patients}):
        drawn = sorted((p for p in patients if p.split == split), key=lambda p: _hash(seed, p.case_id))
        ends = [round(len(drawn) * sum(shares[: n + 1]) / sum(shares)) for n in range(len(shares))]
        for name, start, end in zip(found, [0, *ends], ends, strict=False):
            found[name] += drawn[start:end]
    return found


def _hash(seed: str, case_id: str) -> str:
    return hashlib.sha256(f"{seed}:{case_id}".encode()).hexdigest()


RULES: Mapping[str, Rule] = {
    "hospitals_4": partial(_by_voxels, hospital_of_four),
    "hospitals_8": partial(_by_voxels, hospital_of_eight),
    "iid_4": partial(_by_chance, "iid_4", (1,) * 4),
    "iid_8": partial(_by_chance, "iid_8", (1,) * 8),
    "quantity_8": partial(_by_chance, "quantity_8", _QUANTITY_PERCENT),
}
# Rules that look at voxels and targets, and so need the patients' files.
BY_VOXELS = ("hospitals_4", "hospitals_8")


def assign_hospitals(name: str, patients: Sequence[CohortPatient]) -> dict[str, Hospital]:
    """The hospitals that the rule ``name`` makes of the training and validation patients.

    Patients keep their order. Patients whose hospital has nobody to train on join the first hospital that has: a small
    cohort has fewer hospitals, and loses nobody.
    """
    found = {
        hospital: Hospital(
            train=[p.case_id for p in patients if p in members and p.split == "train"],
            validation=[p.case_id for p in patients if p in members and p.split == "validation"],
        )
        for hospital, members in RULES[name](patients).items()
    }
    order = {patient.case_id: number for number, patient in enumerate(patients)}
    training = [hospital for hospital in found.values() if hospital.train]
    for hospital in found.values():
        if training and not hospital.train:
            training[0].validation = sorted([*training[0].validation, *hospital.validation], key=order.__getitem__)
    if name == "hospitals_8":
        for hospital in training:
            short = _LEAST_VALIDATION - len(hospital.validation)
            aside = min(max(short, 0), max(len(hospital.train) - _LEAST_TRAINING, 0))
            hospital.train = hospital.train[: len(hospital.train) - aside]
    return {name: hospital for name, hospital in found.items() if hospital.train or not training}
