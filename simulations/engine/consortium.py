"""Identities for simulated hospitals, so that they take part in secure aggregation as real ones do.

Each run makes new keys and holds them in memory only. A simulation's sites end with its process, and a resumed run sets
up new sums anyway.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from flwr.app import UserConfig

from client.app import NODE_CONFIG_KEY, SECURE_KEY
from client.gate.secure_site import SITES, SecureSite
from client.site.config import SiteConfig
from privacy.secagg.context import Cohort, Floors
from privacy.secagg.replay import MemoryReplay
from privacy.secagg.site import MaskingSite
from server.sites.attendance import Members

FLOORS = Floors(one_sum_a_round=False)  # sums without noise are held to one a round all the same


@contextmanager
def enrol(nodes: Sequence[UserConfig]) -> Iterator[tuple[list[UserConfig], Members]]:
    """Give each site an identity while the block runs; yields node configs that name it, and the members of the run."""
    names = [SiteConfig.load(Path(str(node[NODE_CONFIG_KEY]))).site for node in nodes]
    keys = {name: ed25519.Ed25519PrivateKey.generate() for name in sorted(names)}
    cohort = Cohort(
        consortium=uuid.uuid4().hex,
        names=tuple(keys),
        keys=tuple(key.public_key().public_bytes_raw() for key in keys.values()),
    )
    tokens = {name: f"{cohort.consortium}/{name}" for name in names}
    for name, token in tokens.items():
        site = MaskingSite(name=name, identity=keys[name], cohort=cohort, floors=FLOORS, replay=MemoryReplay())
        SITES.enrol(token, SecureSite(site))
    try:
        known = [{**node, SECURE_KEY: tokens[name]} for node, name in zip(nodes, names, strict=True)]
        yield known, Members(cohort=cohort)
    finally:
        for token in tokens.values():
            SITES.forget(token)
