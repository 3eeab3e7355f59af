"""Heads that stay at the site: the sites share the body of the network, and each keeps the last layers for itself.

FedPer (Arivazhagan et al. 2019, arXiv:1912.00818). Which tensors stay is chosen by the start of their names
(shared_model/adapter/heads.py). The vector keeps its length, and the update is 0 there: so it works under
masks too, saves no bytes, and the head in the published adapter stays as it was before the first round. A site that
never took part has that head; a site that missed rounds goes on with its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.site.config import SiteConfig
from client.training.between_rounds import Arrays, Memory
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec


def heads_memory(site: SiteConfig, spec: ModelSpec, seed: int, names: str) -> Memory:
    """Where the site keeps its heads. InputError if it has no folder for derived files."""
    return Memory.of(site, spec, seed, f"heads-{names.replace(',', '-')[:64]}")


def with_heads(vector: Vector, mask: NDArray[np.bool_], kept: Arrays) -> Vector:
    """Return the shared vector (d,) with the site's own heads, if it has any."""
    if not kept:
        return vector
    own = vector.copy()
    own[mask] = kept["heads"]
    return own
