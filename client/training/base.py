"""The base at a site: voxels of the training patients to train it on, and the base dose of each patient."""

from __future__ import annotations

import threading

from client.data.kept import latest_per_site
from client.data.load import load_split, or_none
from client.site.config import SiteConfig
from shared_model.base.interface import TrainingRows, base_of
from shared_model.channels.features import Features
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume, content_hash


@latest_per_site
def base_rows(site: SiteConfig, spec: ModelSpec) -> tuple[TrainingRows | None, ...]:
    """What a base trains on: rows of each training case, None without targets.

    Raises InputError on a case that cannot be read or has no dose.
    """
    base = base_of(spec)
    return tuple(base.rows(case, _features(spec, case)) for case in load_split(site, "train"))


@latest_per_site
def readable_rows(site: SiteConfig, spec: ModelSpec) -> tuple[TrainingRows | None, ...]:
    """As ``base_rows``, with None also for a case that cannot be read, which only the site's log says."""
    base = base_of(spec)
    return tuple(or_none(site, case_id, lambda case: base.rows(case, _features(spec, case))) for case_id in site.train)


def case_dose(case: Case, spec: ModelSpec, weights: bytes) -> Volume | None:
    """Base dose of one patient, (z, y, x) Gy on their own grid; None for a model without a base."""
    return base_of(spec).dose(case, _features(spec, case), weights) if spec.has_base else None


def base_doses(site: SiteConfig, spec: ModelSpec, weights: bytes, split: str) -> tuple[Volume | None, ...]:
    """Base dose of each patient of a split, (z, y, x) Gy on its own grid; None each for a model without a base.

    ``weights``: the base's (shared_model/base/model.py).
    """
    if not spec.has_base:
        return (None,) * len(getattr(site, split))
    base = base_of(spec)
    return tuple(base.dose(case, _features(spec, case), weights) for case in load_split(site, split))


# Features by base and content of a case, 1 to 2 MB each at 64^3: several studies of a simulation ask for the same.
_KEEP_BYTES = 512_000_000
_kept: dict[tuple[str, str], Features] = {}
_keeping = threading.Lock()


def _features(spec: ModelSpec, case: Case) -> Features:
    key = (spec.base, content_hash(case))
    with _keeping:
        found = _kept.get(key)
    if found is None:
        found = base_of(spec).features(case)
        with _keeping:
            if found.nbytes + sum(kept.nbytes for kept in _kept.values()) <= _KEEP_BYTES:
                _kept[key] = found
    return found
