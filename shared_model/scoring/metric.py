"""Names of plan metrics as clinics write them, such as ``D95%`` or ``V20Gy``, and what each means.

| name | value | units |
|---|---|---|
| ``Dx%``, ``Dxcc`` | least dose in the hottest x % or x cm3 of the structure | Gy, %Rx |
| ``Mean`` (``Dmean``), ``Max``, ``Min`` | over the structure's voxels | Gy, %Rx |
| ``VxGy``, ``Vx%`` | volume that receives at least x Gy, or x % of the prescription | %, cc |
| ``CVxGy``, ``CVx%`` | volume that receives less (critical volume) | %, cc |
| ``CIx%`` | conformity of the x % isodose (Paddick 2000): (target in it)^2 / (target * isodose) | ratio |
| ``HI`` | homogeneity (ICRU 83): (D2% - D98%) / D50% | ratio |
| ``GI`` | gradient (Paddick and Lippitz 2006): volume of the 50 % isodose / volume of the 100 % isodose | ratio |
| ``Rx%`` | volume of the x % isodose / volume of the target (RTOG 0813: R50%) | ratio |

``%Rx`` is percent of the prescription.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared_model.core.errors import InputError

DOSE_UNITS = ("Gy", "%Rx")
VOLUME_UNITS = ("%", "cc")
RATIO_UNITS = ("ratio",)
_NUMBER = r"(\d+(?:\.\d+)?)"
_FORMS: Mapping[str, re.Pattern[str]] = {
    "dose_at_percent": re.compile(rf"D{_NUMBER}%"),
    "dose_at_cc": re.compile(rf"D{_NUMBER}cc"),
    "mean": re.compile("Mean|Dmean"),
    "max": re.compile("Max|Dmax"),
    "min": re.compile("Min|Dmin"),
    "volume_at_gy": re.compile(rf"V{_NUMBER}Gy"),
    "volume_at_percent": re.compile(rf"V{_NUMBER}%"),
    "cold_volume_at_gy": re.compile(rf"CV{_NUMBER}Gy"),
    "cold_volume_at_percent": re.compile(rf"CV{_NUMBER}%"),
    "conformity": re.compile(rf"CI{_NUMBER}%"),
    "homogeneity": re.compile("HI"),
    "gradient": re.compile("GI"),
    "spill": re.compile(rf"R{_NUMBER}%"),
}
_DOSES = ("dose_at_percent", "dose_at_cc", "mean", "max", "min")
# These count isodose volumes in the whole body. Their structure is the target that the isodose belongs to.
OF_ISODOSE = ("conformity", "gradient", "spill")
OF_PRESCRIPTION = (*OF_ISODOSE, "volume_at_percent", "cold_volume_at_percent")
MAX_GY, MAX_PERCENT, MAX_CC = 200.0, 200.0, 20_000.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """``kind``: a key of ``_FORMS``. ``amount``: the x in the name, in percent, cm3 or Gy, as the name says."""

    name: str
    kind: str
    amount: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Read a metric's name. InputError for any other text, or an amount that no dose or volume can have."""
        for kind, form in _FORMS.items():
            match = form.fullmatch(text)
            if match:
                amount = float(match.group(1)) if match.groups() else 0.0
                high = _highest(kind)
                if match.groups() and not 0 < amount <= high:
                    raise InputError(f"metric {text!r}: expected a number above 0, up to {high:g}")
                return cls(name=text, kind=kind, amount=amount)
        raise InputError(f"metric {text!r} is unknown; expected one like D95%, D0.1cc, Mean, V20Gy, V95%, CI95%, HI")

    @property
    def units(self) -> tuple[str, ...]:
        """The units in which its value may be given."""
        if self.kind in _DOSES:
            return DOSE_UNITS
        return VOLUME_UNITS if "volume" in self.kind else RATIO_UNITS

    def highest(self, unit: str) -> float:
        """The highest value that the metric can have in ``unit``."""
        if unit == "ratio":
            return 1.0 if self.kind == "conformity" else 1000.0
        return {"Gy": MAX_GY, "%Rx": MAX_PERCENT, "%": 100.0, "cc": MAX_CC}[unit]


def _highest(kind: str) -> float:
    if kind == "dose_at_percent":
        return 100.0
    return {"dose_at_cc": MAX_CC, "volume_at_gy": MAX_GY, "cold_volume_at_gy": MAX_GY}.get(kind, MAX_PERCENT)
