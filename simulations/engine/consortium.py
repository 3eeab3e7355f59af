"""Identities for simulated hospitals, so that they take part in secure aggregation as real ones do.

Keys are made anew for each run and live in memory: a simulation's sites end with its process, and a run that goes on
later sets up new sums anyway.
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
from privacy.secagg.site import Site
from server.sites.attendance import Members

FLOORS = Floors(one_sum_a_round=False)  # of noised releases alone (client/app.py)


@contextmanager
def enrol(nodes: Sequence[UserConfig]) -> Iterator[tuple[list[UserConfig], Members]]:
    """Give each node's site an identity, for the time inside: node configs that name it, and the cohort of them all."""
    names = [SiteConfig.load(Path(str(node[NODE_CONFIG_KEY]))).site for node in nodes]
    keys = {name: ed25519.Ed25519PrivateKey.generate() for name in sorted(names)}
    cohort = Cohort(
        consortium=uuid.uuid4().hex,
        names=tuple(keys),
        keys=tuple(key.public_key().public_bytes_raw() for key in keys.values()),
    )
    tokens = {name: f"{cohort.consortium}/{name}" for name in names}
    for name, token in tokens.items():
        site = Site(name=name, identity=keys[name], cohort=cohort, floors=FLOORS, replay=MemoryReplay())
        SITES.enrol(token, SecureSite(site))
    try:
        known = [{**node, SECURE_KEY: tokens[name]} for node, name in zip(nodes, names, strict=True)]
        yield known, Members(cohort=cohort)
    finally:
        for token in tokens.values():
            SITES.forget(token)
