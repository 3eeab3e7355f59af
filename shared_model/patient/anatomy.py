"""Structure names (AAPM TG-263) that a Case may hold, by site of the body, and which of them are inputs of a model.

A model has seven inputs for organs. They are called after the organs of head and neck (OAR_NAMES), for which they were
made. In a model of another site each of them stands for an organ of that site, paired inputs for paired organs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Codes are part of the model's input: append only, never renumber.
OAR_CODES: dict[str, int] = {
    "Brainstem": 1,
    "SpinalCord": 2,
    "Parotid_R": 3,
    "Parotid_L": 4,
    "Esophagus": 5,
    "Larynx": 6,
    "Bone_Mandible": 7,
}
OAR_NAMES: tuple[str, ...] = tuple(OAR_CODES)

HEAD_NECK = "head_neck"


@dataclass(frozen=True, kw_only=True)
class BodySite:
    """Organs of one site of the body. ``inputs``: an input's name (OAR_NAMES) -> the organ that it stands for.

    ``others`` are read, checked, drawn and scored, and are no input of a model.
    """

    inputs: Mapping[str, str]
    others: tuple[str, ...] = ()

    @property
    def organs(self) -> tuple[str, ...]:
        """All organs of the site."""
        return (*self.inputs.values(), *self.others)


# Part of the input of every model of its site: append to ``others`` only, never change ``inputs``.
BODY_SITES: Mapping[str, BodySite] = {
    HEAD_NECK: BodySite(inputs={name: name for name in OAR_NAMES}),
    "thorax": BodySite(
        inputs={
            "Brainstem": "Heart",
            "SpinalCord": "SpinalCord",
            "Parotid_R": "Lung_R",
            "Parotid_L": "Lung_L",
            "Esophagus": "Esophagus",
            "Larynx": "Trachea",
            "Bone_Mandible": "GreatVes",
        },
        others=(
            "Lungs", "Lungs-GTV", "Lungs-CTV", "Lungs-ITV", "Lungs-PTV", "A_LAD", "BrachialPlex_L", "BrachialPlex_R",
            "BrachialPlexs", "SpinalCanal", "Pericardium", "Bronchus", "Liver", "Stomach",
        ),
    ),
    "pelvis": BodySite(
        inputs={
            "Brainstem": "PenileBulb",
            "SpinalCord": "Colon_Sigmoid",
            "Parotid_R": "Femur_Head_R",
            "Parotid_L": "Femur_Head_L",
            "Esophagus": "Rectum",
            "Larynx": "Bladder",
            "Bone_Mandible": "Spc_Bowel",
        },
        others=(
            "Bag_Bowel", "Bowel", "Bowel_Small", "Bowel_Large", "Canal_Anal", "Rectal_Wall", "Bladder_Wall", "Femur_L",
            "Femur_R", "CaudaEquina", "Urethra",
        ),
    ),
}  # fmt: skip
# All organs that a Case may hold: first those with a code.
ORGANS: tuple[str, ...] = tuple(dict.fromkeys(organ for site in BODY_SITES.values() for organ in site.organs))

_TARGET = re.compile(r"PTV_(\d{4})")


def is_target(name: str) -> bool:
    """Whether the name is a planning target volume in TG-263's dose form, such as ``PTV_7000`` (cGy)."""
    return _TARGET.fullmatch(name) is not None


def target_name(prescription_gy: float) -> str:
    """The TG-263 name of the target with this prescription: 70 -> ``PTV_7000``."""
    return f"PTV_{round(prescription_gy * 100):04d}"


def is_known(name: str) -> bool:
    """Whether a Case may hold a structure of this name."""
    return name in ORGANS or is_target(name)


def sites_of(organs: tuple[str, ...]) -> tuple[str, ...]:
    """The sites of the body that at least one of ``organs`` belongs to alone: a cord lies in several."""
    alone = {name: [site for site, of in BODY_SITES.items() if name in of.organs] for name in organs}
    return tuple(site for site in BODY_SITES if [site] in alone.values())


def mirror_name(name: str) -> str:
    """The name of the same organ on the patient's other side. An unpaired organ keeps its name."""
    if name.endswith("_L"):
        return name[:-2] + "_R"
    if name.endswith("_R"):
        return name[:-2] + "_L"
    return name
