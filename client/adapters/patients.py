"""A site's patients for scorecard training and scoring: encoded, with base dose, reference and bound scorecard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.data.encoded import encoded
from client.data.load import load_case
from client.data.npz import read_arrays, write_arrays
from client.site.config import SiteConfig
from shared_model.base.interface import base_of
from shared_model.base.model import DoseModel, base_gy, base_weights
from shared_model.core.errors import InputError
from shared_model.forms.interface import Drawing, Form, form_of
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume, content_hash
from shared_model.scoring.bound import BoundCard
from shared_model.scoring.dosimetry import mae_ref5_gy
from shared_model.scoring.scorecard import Scorecard

# Raise this number when an equal case would get another base dose.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ScoredPatient:
    """One patient: the case, the same as the model sees it, base dose (None without one) and the bound scorecard."""

    case: Case
    encoded: Any
    base: Volume | None
    card: BoundCard
    form: Form[Any]

    @property
    def reference(self) -> Tensor:
        """The plan's own dose, (z, y, x) Gy."""
        assert self.case.dose_gy is not None
        return torch.from_numpy(self.case.dose_gy)

    def doses(self, volumes: Tensor) -> Tensor:
        """Volumes (k, ...) in the network's scale as doses (k, z, y, x) in Gy on the case's grid."""
        return self.form.in_gy(volumes, self.encoded, self.case, self.base)

    def mae_gy(self, dose_kzyx: Tensor) -> Tensor:
        """``mae_ref5_gy`` of each dose, (k,)."""
        return mae_ref5_gy(self.reference, dose_kzyx, torch.from_numpy(self.case.body))

    def sample(self, model: DoseModel, steps: int, candidates: int, seed: int) -> Tensor:
        """Candidate doses (k, z, y, x) in Gy on the case's grid."""
        how = Drawing(steps=steps)
        return self.doses(self.form.draw(model.network, self.encoded, how, candidates=candidates, seed=seed))


def load_patients(
    site: SiteConfig,
    case_ids: Sequence[str],
    spec: ModelSpec,
    model: DoseModel,
    card: Scorecard,
    loaded: Callable[[int], None] = lambda patients: None,
) -> list[ScoredPatient]:
    """Load the patients ``case_ids``; keep base doses in the site's cache, if it has one.

    InputError for a patient without a reference dose: every reward is anchored to it.
    """
    form = form_of(spec)
    found = []
    for case_id in case_ids:
        case = load_case(site, case_id)
        if case.dose_gy is None:
            raise InputError(f"case {case_id}: no reference dose, which alignment needs; take the case out")
        base = _base(case, spec, model, site.cache)
        found.append(
            ScoredPatient(
                case=case,
                encoded=encoded(case, spec, site.cache, base),
                base=base,
                card=card.bind(case),
                form=form,
            )
        )
        loaded(1)
    return found


def _base(case: Case, spec: ModelSpec, model: DoseModel, cache: Path | None) -> Volume | None:
    """Return the base dose, from the cache if it is there: its features take a second a patient.

    A file's name is the hash of all that it depends on, as in client/data/latent_cache.py. A damaged file is replaced.
    """
    if not spec.has_base or cache is None:
        return base_gy(case, spec, model)
    fixed = base_of(spec).fixed_hash() or ""
    what = [FORMAT, content_hash(case), spec.base, fixed]
    digest = hashlib.sha256(json.dumps(what).encode() + base_weights(model))
    path = cache / "base" / f"{digest.hexdigest()}.npz"
    if path.is_file():
        with suppress(InputError):
            return np.asarray(read_arrays(path, ("base",))["base"], dtype=np.float32)
    base = base_gy(case, spec, model)
    if base is not None:
        write_arrays(path, {"base": base})
    return base
