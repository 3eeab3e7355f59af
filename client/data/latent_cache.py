"""Latents of a site's patients on its own disk, so that the frozen autoencoder runs once a patient.

A file's name is the hash of all that it depends on: the case's content, its base dose, the training grid and the
autoencoder's weights. When any of them changes, the file is no longer used. The folder holds patients' images in
another form (the autoencoder decodes them): it stays at the site, only its owner can read it, and it may be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from shared_model.backbone.prior import load_latents
from shared_model.core.files import write_bytes
from shared_model.diffusion.modalities import Example, example
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import MODALITIES, Case, Volume, content_hash
from shared_model.patient.geometry import roi_grid

# Raise this number when an equal case would give other volumes.
FORMAT = 2
# The name of the dose's estimate in a file.
ESTIMATE = "base"


def encode_case(case: Case, spec: ModelSpec, cache: Path | None, base_gy: Volume | None = None) -> Example:
    """Return the case as the model sees it: from ``cache`` or else encoded now and kept there (float32, exact).

    ``base_gy``: the case's base dose, if ``spec`` has one. Latents that are quick to make are not kept, and without a
    ``cache`` none are. A file that cannot be read is replaced.
    """
    latents = load_latents(spec)
    if cache is None or not latents.costly:
        return example(case, spec.shape, latents, base_gy)
    digest = hashlib.sha256(json.dumps([FORMAT, latents.identity, spec.shape, content_hash(case)]).encode())
    if base_gy is not None:
        digest.update(np.ascontiguousarray(base_gy).tobytes())
    path = cache / "latents" / f"{digest.hexdigest()}.safetensors"
    kept = _read(path)
    if kept is None:
        made = example(case, spec.shape, latents, base_gy)
        _write(path, dict(made.latents) | ({} if made.estimate is None else {ESTIMATE: made.estimate}))
        return made
    grid = roi_grid(case.body, case.grid, spec.shape)
    return Example(case_id=case.case_id, grid=grid, estimate=kept.pop(ESTIMATE, None), latents=kept)


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        kept = load_file(path)
    except (OSError, SafetensorError):
        return None
    return {m: kept[m] for m in (*MODALITIES, ESTIMATE) if m in kept}


def _write(path: Path, latents: dict[str, Tensor]) -> None:
    """Whole or not at all, also when several processes encode the same patient."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_bytes(path, save({m: v.contiguous() for m, v in latents.items()}))
