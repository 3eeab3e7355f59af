"""Which numbers of an adapter's vector are heads that stay at each site, by the names of their tensors."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared_model.adapter.manifest import layout
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec


@lru_cache(maxsize=4)
def heads(spec: ModelSpec, names: str) -> NDArray[np.bool_]:
    """Which numbers of the vector stay, (d,): of tensors whose name starts with one of ``names`` (a,b). InputError if
    one of them begins no tensor's name, or nothing is left to share."""
    starts = names.split(",")
    tensors = layout(spec)
    for start in starts:
        if not any(name.startswith(start) for name, _ in tensors):
            raise InputError(f"train.personal={start}: the adapter has no tensor of such a name")
    mask = np.concatenate(
        [np.full(math.prod(shape), any(name.startswith(start) for start in starts)) for name, shape in tensors]
    )
    if mask.all():
        raise InputError(f"train.personal={names}: all of the adapter would stay at the sites; name its heads alone")
    return mask
