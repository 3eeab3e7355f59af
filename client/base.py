"""The closed-form base at a site: sums over the training patients to fit it, and the base dose of each patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.cohort import load_case
from client.site import SiteConfig
from shared_model import base
from shared_model.base_features import Features, physics_features
from shared_model.case import Case, Volume
from shared_model.spec import ModelSpec


def base_sums(site: SiteConfig, spec: ModelSpec) -> NDArray[np.int64]:
    """Sum what the base of ``spec`` is solved from over the training patients, (s,) int64 (shared_model/base.py).

    Raises InputError on a case that cannot be read or has no dose.
    """
    total = np.zeros(base.sums_size(spec.base_fourier), dtype=np.int64)
    for case_id in site.train:
        case = load_case(site, case_id)
        total += base.patient_sums(case, _features(site, case), spec.base_fourier)
    return total


def base_doses(site: SiteConfig, spec: ModelSpec, split: str) -> tuple[Volume | None, ...]:
    """Base dose of each patient of a split, (z, y, x) Gy on its own grid; None each for ``base=none``."""
    case_ids: tuple[str, ...] = getattr(site, split)
    if spec.base == "none":
        return (None,) * len(case_ids)
    weights = base.weights_of(spec)
    cases = (load_case(site, case_id) for case_id in case_ids)
    return tuple(base.predict(case, _features(site, case), weights, spec.base_fourier) for case in cases)


# Features by site folder and patient, about 1 MB each at 64^3: several studies of a simulation ask for the same.
_KEEP_BYTES = 512_000_000
_kept: dict[tuple[str, str, str], Features] = {}


def _features(site: SiteConfig, case: Case) -> Features:
    key = (str(site.root), site.data, case.case_id)
    found = _kept.get(key)
    if found is None:
        found = physics_features(case)
        if found.nbytes + sum(kept.nbytes for kept in _kept.values()) <= _KEEP_BYTES:
            _kept[key] = found
    return found
