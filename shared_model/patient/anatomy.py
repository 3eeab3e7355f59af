"""Structure names (AAPM TG-263) that the model knows, and their integer codes in the ``oar`` modality."""

from __future__ import annotations

import re

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

_TARGET = re.compile(r"PTV_(\d{4})")


def is_target(name: str) -> bool:
    """Whether the name is a planning target volume in TG-263's dose form, such as ``PTV_7000`` (cGy)."""
    return _TARGET.fullmatch(name) is not None


def target_name(prescription_gy: float) -> str:
    """The TG-263 name of the target with this prescription: 70 -> ``PTV_7000``."""
    return f"PTV_{round(prescription_gy * 100):04d}"


def is_known(name: str) -> bool:
    """Whether the model can use a structure of this name."""
    return name in OAR_CODES or is_target(name)


def mirror_name(name: str) -> str:
    """The name of the same organ on the patient's other side. An unpaired organ keeps its name."""
    if name.endswith("_L"):
        return name[:-2] + "_R"
    if name.endswith("_R"):
        return name[:-2] + "_L"
    return name
