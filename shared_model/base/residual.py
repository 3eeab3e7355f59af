"""The residual form: which base dose a model's specification asks for, whether closed-form or trained."""

from __future__ import annotations

from functools import lru_cache

from shared_model.base import phantom as phantom_base
from shared_model.base import ridge as base
from shared_model.base import voxel
from shared_model.base.features import Features, physics_features
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume


def base_features(case: Case, spec: ModelSpec) -> Features:
    """What the base of ``spec`` reads of a case, (n, f): a row for each voxel of the body."""
    return voxel.voxel_features(case) if spec.base == "voxel" else physics_features(case)


def base_weights(model: Any2AnyDiT) -> bytes:
    """Weights of a base that trains with the model, as bytes; empty without such a base."""
    if isinstance(model.voxel, phantom_base.PhantomBase):
        return model.voxel.correction.detach().float().numpy().tobytes()
    return voxel.weights(model.voxel) if isinstance(model.voxel, voxel.VoxelBase) else b""


@lru_cache(maxsize=4)
def _network(weights: bytes) -> voxel.VoxelBase:
    return voxel.from_weights(weights)


def base_dose(case: Case, spec: ModelSpec, features: Features, weights: bytes) -> Volume:
    """The base dose, (z, y, x) Gy on the case's grid, from ``base_features`` and ``base_weights``."""
    if spec.base == "voxel":
        return voxel.predict(case, features, _network(weights))
    if spec.base == "phantom":
        return base.predict(case, features, phantom_base.coefficients(weights), 0)
    return base.predict(case, features, base.weights_of(spec), spec.base_fourier)


def base_gy(case: Case, spec: ModelSpec, model: Any2AnyDiT) -> Volume | None:
    """The base dose of one case, (z, y, x) Gy; None for ``base=none``."""
    if spec.base == "none":
        return None
    return base_dose(case, spec, base_features(case, spec), base_weights(model))
