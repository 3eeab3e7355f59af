"""Case: one patient's planning data on one grid. It is checked once, when it is made."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared_model.core.errors import InputError
from shared_model.patient.anatomy import OAR_CODES, ORGANS, is_known, is_target
from shared_model.patient.geometry import Grid

MODALITIES: tuple[str, ...] = ("dose", "ct", "ptv", "oar", "body", "beam", "angle")
CONDITIONS: tuple[str, ...] = MODALITIES[1:]
MAX_DOSE_GY = 200.0

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One treatment plan of one patient. Volumes have the grid's shape (z, y, x). ``None`` or empty means absent.

    ``case_id`` is a pseudonym. ``ct_hu`` is in Hounsfield units. ``structures`` are masks by TG-263 name. The keys of
    ``prescriptions_gy`` are the targets among them. ``body`` marks the voxels where dose may differ from zero.
    ``beam_plate`` and ``angle_plate`` are those of the GDP-HMM challenge (shared_model/patient/plates.py).
    ``gantry_deg``: directions of the coplanar beams about a patient who lies head first and supine, of an arc many;
    empty where they are not known. ``dose_gy`` is absolute dose.
    ``cut_by_dose`` are organs that its grid covers only in part: their mean dose and V% are not known. Raises
    InputError if any of this does not hold.
    """

    case_id: str
    grid: Grid
    body: Mask
    structures: Mapping[str, Mask] = field(default_factory=dict)
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    ct_hu: Volume | None = None
    beam_plate: Volume | None = None
    angle_plate: Volume | None = None
    gantry_deg: tuple[float, ...] = ()
    dose_gy: Volume | None = None
    cut_by_dose: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ct_hu", "beam_plate", "angle_plate", "dose_gy"):
            volume = getattr(self, name)
            if volume is not None:
                self._check_volume(name, volume)
        self._check_mask("body", self.body)
        if not self.body.any():
            raise InputError(f"case {self.case_id}: body mask is empty; expected at least one voxel")
        if not all(math.isfinite(angle) for angle in self.gantry_deg):
            raise InputError(f"case {self.case_id}: a gantry angle is not finite")
        self._check_structures()
        self._check_dose()

    def _check_volume(self, name: str, volume: Volume) -> None:
        if volume.shape != self.grid.shape:
            raise InputError(f"case {self.case_id}: {name} has shape {volume.shape}, the grid {self.grid.shape}")
        if not np.isfinite(volume).all():
            raise InputError(f"case {self.case_id}: {name} holds values that are not finite")

    def _check_mask(self, name: str, mask: Mask) -> None:
        if mask.dtype != np.bool_:
            raise InputError(f"case {self.case_id}: {name} is {mask.dtype}, expected a boolean mask")
        if mask.shape != self.grid.shape:
            raise InputError(
                f"case {self.case_id}: mask {name} has shape {mask.shape}, outside the grid {self.grid.shape}"
            )

    def _check_structures(self) -> None:
        for name, mask in self.structures.items():
            if not is_known(name):
                known = ", ".join(ORGANS)
                raise InputError(
                    f"case {self.case_id}: unknown structure {name!r}; expected a target like PTV_7000 or {known}"
                )
            self._check_mask(name, mask)
            if is_target(name) and name not in self.prescriptions_gy:
                raise InputError(f"case {self.case_id}: target {name} has no prescription")
        for name, level in self.prescriptions_gy.items():
            if name not in self.structures:
                raise InputError(f"case {self.case_id}: prescription for {name}, which has no mask")
            if not 0 < level < MAX_DOSE_GY:
                raise InputError(
                    f"case {self.case_id}: prescription of {name} is {level} Gy, expected 0 to {MAX_DOSE_GY}"
                )

    def _check_dose(self) -> None:
        if self.dose_gy is None:
            return
        if self.dose_gy.min() < 0:
            raise InputError(f"case {self.case_id}: dose is negative ({self.dose_gy.min():.3g} Gy); expected >= 0 Gy")
        if self.dose_gy.max() > MAX_DOSE_GY:
            raise InputError(
                f"case {self.case_id}: dose reaches {self.dose_gy.max():.4g} Gy; is it in cGy? expected < {MAX_DOSE_GY}"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The patient's targets, highest prescription first."""
        return tuple(sorted(self.prescriptions_gy, key=lambda name: -self.prescriptions_gy[name]))

    def ptv_gy(self) -> Volume:
        """Prescribed dose inside the targets, (z, y, x) Gy: the highest where targets overlap, 0 outside them."""
        out = np.zeros(self.grid.shape, dtype=np.float32)
        for name in reversed(self.targets):
            out[self.structures[name]] = self.prescriptions_gy[name]
        return out

    def oar_code(self) -> Volume:
        """Organ code of each voxel (anatomy.OAR_CODES), (z, y, x): 0 in targets and where there is no organ."""
        out = np.zeros(self.grid.shape, dtype=np.float32)
        for name, code in OAR_CODES.items():
            if name in self.structures:
                out[self.structures[name]] = code
        out[self.ptv_gy() > 0] = 0
        return out


def content_hash(case: Case) -> str:
    """SHA-256 hex of everything in a case that the model sees; the pseudonym is not part of it."""
    words = [astuple(case.grid), sorted(case.prescriptions_gy.items()), *([case.gantry_deg] if case.gantry_deg else [])]
    digest = hashlib.sha256(json.dumps(words).encode())
    arrays: dict[str, Volume | Mask | None] = {
        "body": case.body,
        "ct": case.ct_hu,
        "beam": case.beam_plate,
        "angle": case.angle_plate,
        "dose": case.dose_gy,
        **{f"structure {name}": mask for name, mask in case.structures.items()},
    }
    for name, array in sorted(arrays.items()):
        if array is not None:
            digest.update(f"{name}:{array.dtype};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
