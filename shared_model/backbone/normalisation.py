"""Identity of the constants that volumes are normalised with: every party of a federation must have the same."""

from __future__ import annotations

import hashlib
import json

from shared_model.backbone.wan_vae import SCALE
from shared_model.diffusion.modalities import CT_RANGE_HU, HAAR
from shared_model.network.spec import ModelSpec


def normalisation_hash(spec: ModelSpec) -> str:
    """SHA-256 hex over mean and unit of each modality, and the CT range, as installed here for ``spec``'s prior."""
    scale = SCALE if spec.prior == "wan" else HAAR.scale
    constants = {"scale": {name: list(pair) for name, pair in scale.items()}, "ct_range_hu": list(CT_RANGE_HU)}
    return hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()
