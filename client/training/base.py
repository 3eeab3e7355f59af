"""The base at a site: sums or voxels of the training patients to fit it to, and the base dose of each patient."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from client.data.kept import latest_per_site
from client.data.latent_cache import content_hash
from client.data.load import load_split
from client.site.config import SiteConfig
from shared_model.base import ridge as base
from shared_model.base.features import Features
from shared_model.base.phantom import phantom_rows
from shared_model.base.residual import base_dose, base_features
from shared_model.base.voxel_training import TrainingRows, training_rows
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume


def base_sums(site: SiteConfig, spec: ModelSpec) -> NDArray[np.int64]:
    """Sum what a ridge base is solved from over the training patients, (s,) int64 (shared_model/base/ridge.py).

    Raises InputError on a case that cannot be read or has no dose.
    """
    total = np.zeros(base.sums_size(spec.base_fourier), dtype=np.int64)
    for case in load_split(site, "train"):
        total += base.patient_sums(case, _features(spec, case), spec.base_fourier)
    return total


@latest_per_site
def voxel_rows(site: SiteConfig, spec: ModelSpec) -> tuple[TrainingRows | None, ...]:
    """What a base trains on: rows of each training case, None without targets. Raises as ``base_sums`` does."""
    rows = phantom_rows if spec.base == "phantom" else training_rows
    return tuple(rows(case, _features(spec, case)) for case in load_split(site, "train"))


def base_doses(site: SiteConfig, spec: ModelSpec, weights: bytes, split: str) -> tuple[Volume | None, ...]:
    """Base dose of each patient of a split, (z, y, x) Gy on its own grid; None each for ``base=none``.

    ``weights``: those of a base that trains (shared_model/base/residual.py).
    """
    if spec.base == "none":
        return (None,) * len(getattr(site, split))
    cases = load_split(site, split)
    return tuple(base_dose(case, spec, _features(spec, case), weights) for case in cases)


# Features by base and content of a case, 1 to 2 MB each at 64^3: several studies of a simulation ask for the same.
_KEEP_BYTES = 512_000_000
_kept: dict[tuple[str, str], Features] = {}
_keeping = threading.Lock()


def _features(spec: ModelSpec, case: Case) -> Features:
    key = (spec.base, content_hash(case))
    with _keeping:
        found = _kept.get(key)
    if found is None:
        found = base_features(case, spec)
        with _keeping:
            if found.nbytes + sum(kept.nbytes for kept in _kept.values()) <= _KEEP_BYTES:
                _kept[key] = found
    return found
