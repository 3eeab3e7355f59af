"""A patient's organs as a model of one site of the body takes them: each at its input (patient/anatomy.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared_model.patient.anatomy import BODY_SITES, HEAD_NECK
from shared_model.patient.case import Case, Mask

# Both lungs as one structure, in the order in which they stand in for the lungs that are not drawn one by one.
_BOTH_LUNGS = ("Lungs", "Lungs-GTV", "Lungs-ITV", "Lungs-CTV", "Lungs-PTV")
_BOWEL = ("Bag_Bowel", "Bowel", "Bowel_Small")


def as_inputs(case: Case, body_site: str) -> Case:
    """The case with its organs under the names of the model's inputs (OAR_NAMES), and no others.

    Lungs that are drawn as one (GDP-HMM's are) are parted by the sagittal plane through the middle of their extent:
    between them lies the mediastinum. A bag of bowel stands in for the space of the bowel.
    """
    if body_site == HEAD_NECK:
        return case
    organs = {name: mask for name, mask in case.structures.items() if name not in case.targets}
    if body_site == "thorax":
        organs |= _parted_lungs(organs)
    bowel = next((organs[name] for name in _BOWEL if name in organs), None)
    if body_site == "pelvis" and "Spc_Bowel" not in organs and bowel is not None:
        organs["Spc_Bowel"] = bowel
    inputs = BODY_SITES[body_site].inputs
    found = {place: organs[organ] for place, organ in inputs.items() if organ in organs}
    return replace(case, structures={name: case.structures[name] for name in case.targets} | found, cut_by_dose=())


def _parted_lungs(organs: dict[str, Mask]) -> dict[str, Mask]:
    """Left and right lung out of both, where neither is there; x grows to the patient's left."""
    both = next((organs[name] for name in _BOTH_LUNGS if name in organs and organs[name].any()), None)
    if both is None or "Lung_L" in organs or "Lung_R" in organs:
        return {}
    where = np.flatnonzero(both.any(axis=(0, 1)))
    middle = (int(where[0]) + int(where[-1]) + 1) // 2
    left, right = both.copy(), both.copy()
    left[:, :, :middle] = False
    right[:, :, middle:] = False
    return {"Lung_L": left, "Lung_R": right}
