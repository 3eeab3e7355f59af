"""Error of a shared vector on public phantom patients, which anyone may know: what a coordinator watches for poison.

Under secure aggregation nobody can look at a single site's update. What the sum does to patients that are nobody's can
be seen by all, and costs no privacy: it is computed from what was released. The phantoms come with the package
(``phantoms/``, made by `simulate phantom-set`); none of them taught the public numbers of ``model.base=phantom``.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared_model.adapters import adapted_model
from shared_model.base_features import Features
from shared_model.case import Case
from shared_model.dosimetry import dose_score_gy
from shared_model.errors import InputError
from shared_model.geometry import Grid
from shared_model.manifest import unpack
from shared_model.modalities import Example, example
from shared_model.predictor import predict_dose
from shared_model.prior import load_latents
from shared_model.residual import base_dose, base_features, base_weights
from shared_model.spec import ModelSpec

PHANTOMS = Path(__file__).parent / "phantoms" / "cases.npz"
# What an error counts as that is larger, or not a number.
WORST_GY = 1000.0
# Dose in 1/100 Gy and plates in 1/1000 as uint16: 130 kB a phantom in place of 520.
_SCALES = {"dose_gy": 100.0, "beam_plate": 1000.0, "angle_plate": 1000.0}


def pack_phantom(case: Case) -> dict[str, NDArray[Any]]:
    """Arrays of one phantom that has all modalities, as ``phantoms/cases.npz`` holds them."""
    header = {
        "case_id": case.case_id,
        "grid": [case.grid.shape, case.grid.spacing_mm, case.grid.origin_mm],
        "structures": list(case.structures),
        "prescriptions_gy": dict(case.prescriptions_gy),
    }
    arrays: dict[str, NDArray[Any]] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "masks": np.stack([np.packbits(mask) for mask in (case.body, *case.structures.values())]),
        "ct_hu": np.rint(_there(case.ct_hu)).astype(np.int16),
    }
    for name, scale in _SCALES.items():
        arrays[name] = np.rint(_there(getattr(case, name)) * scale).astype(np.uint16)
    return arrays


def _there(volume: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if volume is None:
        raise InputError("phantom set: a phantom lacks a modality; expected all of them")
    return volume


def unpack_phantom(arrays: dict[str, NDArray[Any]]) -> Case:
    """The phantom that ``pack_phantom`` wrote, to its rounding."""
    header = json.loads(arrays["header"].tobytes())
    shape, spacing_mm, origin_mm = (tuple(part) for part in header["grid"])
    grid = Grid(shape, spacing_mm, origin_mm)
    masks = [np.unpackbits(row, count=math.prod(shape)).astype(bool).reshape(shape) for row in arrays["masks"]]
    volumes = {name: (arrays[name] / scale).astype(np.float32) for name, scale in _SCALES.items()}
    return Case(
        case_id=header["case_id"],
        grid=grid,
        body=masks[0],
        structures=dict(zip(header["structures"], masks[1:], strict=True)),
        prescriptions_gy=header["prescriptions_gy"],
        ct_hu=arrays["ct_hu"].astype(np.float32),
        **volumes,
    )


@lru_cache(maxsize=1)
def public_phantoms() -> tuple[Case, ...]:
    """The public phantoms; InputError where the file does not match its card."""
    try:
        content = PHANTOMS.read_bytes()
        card = json.loads((PHANTOMS.parent / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{PHANTOMS.name}: cannot be read ({type(error).__name__}); reinstall fedkt3d") from error
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise InputError(f"{PHANTOMS.name}: does not match its card's sha256; reinstall fedkt3d")
    with np.load(PHANTOMS, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        index, part = name.split(".")
        found.setdefault(index, {})[part] = array
    return tuple(unpack_phantom(found[index]) for index in sorted(found, key=int))


class PhantomCheck:
    """Dose score (Gy) of a vector of ``spec`` on the public phantoms, their mean; the same vector, the same number."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._model = adapted_model(spec).eval()
        self._latents = load_latents(spec)
        self._features: dict[str, Features] = {}
        self._examples: dict[str, Example] = {}

    def __call__(self, vector: NDArray[np.float32], stage: str) -> float:
        """Score ``vector`` (d,): the base alone in stage ``base``, else the whole model with one sampling step.

        WORST_GY at most, also where a dose is not finite.
        """
        unpack(self._model, vector)
        scores = [self._score(case, stage) for case in public_phantoms()]
        mean = math.fsum(scores) / len(scores)
        return min(mean, WORST_GY) if math.isfinite(mean) else WORST_GY

    def _score(self, case: Case, stage: str) -> float:
        assert case.dose_gy is not None
        base = None
        if self._spec.base != "none":
            if case.case_id not in self._features:
                self._features[case.case_id] = base_features(case, self._spec)
            base = base_dose(case, self._spec, self._features[case.case_id], base_weights(self._model))
        if stage == "base" and base is not None:
            dose = torch.from_numpy(base)
        else:
            patient = self._example(case) if base is None else None
            dose = predict_dose(self._model, case, self._spec, patient=patient, base=base)
        score = dose_score_gy(torch.from_numpy(case.dose_gy), dose.float()[None], torch.from_numpy(case.body))
        return float(score)

    def _example(self, case: Case) -> Example:
        """Encoded once, where no base that changes is part of it."""
        if case.case_id not in self._examples:
            self._examples[case.case_id] = example(case, self._spec.shape, self._latents)
        return self._examples[case.case_id]
