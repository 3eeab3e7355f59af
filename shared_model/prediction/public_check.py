"""The error of a shared vector on public patients. A coordinator watches it to notice a poisoned update.

Under secure aggregation nobody can look at a single site's update. But anyone can test the summed model on public
patients, who belong to no site. This costs no privacy, because it uses only what was released. Ten phantoms come with
the package (``public_cases/``). A coordinator may name a file of other public patients. `simulate public-set` makes
both.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared_model.adapter.manifest import unpack
from shared_model.adapter.shared import adapted_model
from shared_model.base.interface import base_of
from shared_model.base.model import base_weights
from shared_model.bundled import PUBLIC_CASES
from shared_model.channels.features import Features
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, whole_file
from shared_model.forms.interface import form_of
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.prediction.predictor import predict_dose
from shared_model.scoring.dosimetry import dose_score_gy

# A larger error, or one that is not a number, counts as this.
WORST_GY = 1000.0
# Files hold dose in 1/100 Gy and plates in 1/1000 as uint16, and CT in whole HU: a quarter of the size.
_SCALES = {"dose_gy": 100.0, "beam_plate": 1000.0, "angle_plate": 1000.0}
_Arrays = dict[str, NDArray[Any]]


def pack_case(case: Case) -> _Arrays:
    """The arrays of one public patient as they are in a file. InputError if there is no dose to compare with."""
    if case.dose_gy is None:
        raise InputError(f"public patients: case {case.case_id} has no dose; expected one to compare with")
    header = {
        "case_id": case.case_id,
        "grid": [case.grid.shape, case.grid.spacing_mm, case.grid.origin_mm],
        "structures": list(case.structures),
        "prescriptions_gy": dict(case.prescriptions_gy),
        "gantry_deg": list(case.gantry_deg),
    }
    arrays: _Arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "masks": np.stack([np.packbits(mask) for mask in (case.body, *case.structures.values())]),
    }
    if case.ct_hu is not None:
        arrays["ct_hu"] = _to_integers(case, "ct_hu", 1.0, np.int16)
    for name, scale in _SCALES.items():
        if getattr(case, name) is not None:
            arrays[name] = _to_integers(case, name, scale, np.uint16)
    return arrays


def _to_integers(case: Case, name: str, scale: float, kind: type[np.integer[Any]]) -> NDArray[Any]:
    whole, allowed = np.rint(getattr(case, name) * scale), np.iinfo(kind)
    if whole.min() < allowed.min or whole.max() > allowed.max:
        wanted = f"{allowed.min / scale:g} to {allowed.max / scale:g}"
        raise InputError(f"public patients: case {case.case_id}: {name} is outside {wanted}")
    packed: NDArray[Any] = whole.astype(kind)
    return packed


def unpack_case(arrays: _Arrays) -> Case:
    """Inverse of ``pack_case``, apart from its rounding."""
    header = json.loads(arrays["header"].tobytes())
    shape, spacing_mm, origin_mm = (tuple(part) for part in header["grid"])
    masks = [np.unpackbits(row, count=math.prod(shape)).astype(bool).reshape(shape) for row in arrays["masks"]]
    volumes = {name: (arrays[name] / scale).astype(np.float32) for name, scale in _SCALES.items() if name in arrays}
    return Case(
        case_id=header["case_id"],
        grid=Grid(shape, spacing_mm, origin_mm),
        body=masks[0],
        structures=dict(zip(header["structures"], masks[1:], strict=True)),
        prescriptions_gy=header["prescriptions_gy"],
        gantry_deg=tuple(header.get("gantry_deg", ())),
        ct_hu=arrays["ct_hu"].astype(np.float32) if "ct_hu" in arrays else None,
        dose_gy=volumes.get("dose_gy"),
        beam_plate=volumes.get("beam_plate"),
        angle_plate=volumes.get("angle_plate"),
    )


def write_public_cases(path: Path, cases: Sequence[Case]) -> str:
    """Write a file of public patients and return its SHA-256 in hex. The same cases always give the same bytes."""
    arrays = {f"{i}.{name}": array for i, case in enumerate(cases) for name, array in pack_case(case).items()}
    with whole_file(path, ORDINARY) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=2)
def public_cases(path: Path) -> tuple[Case, ...]:
    """Read a file that ``write_public_cases`` wrote. InputError if it cannot be read or holds no patient."""
    advice = "reinstall fedkt3d" if path == PUBLIC_CASES else "expected a file that `simulate public-set` wrote"
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # numpy does not read far enough to check the checksums
                raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found: dict[int, _Arrays] = {}
        for name, array in arrays.items():
            index, part = name.split(".")
            found.setdefault(int(index), {})[part] = array
        cases = tuple(unpack_case(found[index]) for index in sorted(found))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile, InputError) as error:
        raise InputError(f"{path}: not a file of public patients ({type(error).__name__}); {advice}") from error
    if not cases:
        raise InputError(f"{path}: holds no public patient; {advice}")
    return cases


class PublicCheck:
    """Scores vectors of ``spec``: the mean dose score (Gy) over ``cases``. The same vector always scores the same."""

    def __init__(self, spec: ModelSpec, cases: Sequence[Case]) -> None:
        self._spec, self._cases = spec, cases
        self._model = adapted_model(spec).eval()
        self._base = base_of(spec)
        self._form = form_of(spec)
        # By place in ``cases``, since names may repeat.
        self._features: dict[int, Features] = {}
        self._patients: dict[int, Any] = {}

    def __call__(self, vector: NDArray[np.float32], stage: str) -> float:
        """Score ``vector`` (d,) in Gy: in stage ``base`` only the base, else the whole model with one sampling step.

        The score is at most WORST_GY, and WORST_GY if a dose is not finite.
        """
        unpack(self._model, vector)
        scores = [self._score(place, stage) for place in range(len(self._cases))]
        mean = math.fsum(scores) / len(scores)
        return min(mean, WORST_GY) if math.isfinite(mean) else WORST_GY

    def _score(self, place: int, stage: str) -> float:
        case, base = self._cases[place], None
        assert case.dose_gy is not None
        if self._spec.has_base:
            if place not in self._features:
                self._features[place] = self._base.features(case)
            base = self._base.dose(case, self._features[place], base_weights(self._model))
        if stage == "base" and base is not None:
            dose = torch.from_numpy(base)
        else:
            patient = self._patient(place) if base is None else None
            dose = predict_dose(self._model, case, self._spec, patient=patient, base=base)
        score = dose_score_gy(torch.from_numpy(case.dose_gy), dose.float()[None], torch.from_numpy(case.body))
        return float(score)

    def _patient(self, place: int) -> Any:
        """The encoded case, made once. Only for a model without a base, whose dose would change the encoding."""
        if place not in self._patients:
            self._patients[place] = self._form.encode(self._cases[place])
        return self._patients[place]
