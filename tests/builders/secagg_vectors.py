"""One sum of secure aggregation with fixed secrets, every message in hex: tests/golden/secagg_vectors.json.

Four sites, threshold 3, ring of 32 bits. Site 3 deals its shares and then drops out, so that both kinds of secret are
restored. `python -m tests.builders.secagg_vectors > FILE` writes it again; whoever changes it changes the protocol.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from privacy.secagg.context import deal_context
from privacy.secagg.dealing import StepSecrets, make_advert
from privacy.secagg.messages import Adverts
from privacy.secagg.server import Server
from privacy.secagg.shamir import PRIME
from tests.builders.secagg_rounds import MODEL, Federation, name

SIZE, GONE, LENGTH = 4, 3, 5


def fixed(what: str, site: int) -> bytes:
    """A secret of 32 bytes that everybody knows."""
    return hashlib.sha256(f"{what} of site {site}".encode()).digest()


def coefficients() -> Iterator[int]:
    """What the Shamir polynomials are made of, highest coefficient first, in the order of their use."""
    number = 0
    while True:
        text = b"".join(hashlib.sha256(f"coefficient {number}.{part}".encode()).digest() for part in range(3))
        yield int.from_bytes(text, "big") % PRIME
        number += 1


def federation() -> Federation:
    """Four sites whose identity keys are fixed, before their first message."""
    found = Federation(size=SIZE, length=LENGTH)
    keys = iter([ed25519.Ed25519PrivateKey.from_private_bytes(fixed("identity", i)) for i in range(SIZE)])
    with patch("tests.builders.secagg_rounds.ed25519.Ed25519PrivateKey") as made:
        made.generate.side_effect = lambda: next(keys)
        found.__post_init__()
    return found


def transcript() -> dict[str, Any]:
    """The whole exchange: what is secret, what is derived, and each message."""
    found = federation()
    adverts = {i: _advert(found, i) for i in range(SIZE)}
    for i, advert in adverts.items():
        found.server.add_advert(name(i), advert)
    keys = found.server.adverts()
    numbers = coefficients()
    with patch("privacy.secagg.shamir.secrets.randbelow", lambda _: next(numbers)):
        deals = found.exchange_shares(keys)
    return {
        "about": "docs/secagg.md, Known answers",
        "sites": [_site(found, i) for i in range(SIZE)],
        "terms": found.terms.to_bytes().hex(),
        "roster": found.cohort.digest.hex(),
        "setup_context": found.server.setup.hex(),
        "adverts": keys.to_bytes().hex(),
        "deal_context": _deal_context(keys).hex(),
        "deals": [deals[i].to_bytes().hex() for i in range(SIZE)],
        **_sum(found, found.server),
    }


def _advert(found: Federation, i: int) -> Any:
    """Begin, then put fixed secrets in place of the drawn ones."""
    found.sites[i].begin(found.terms, found.terms.config)
    setup = found.sites[i]._setup
    setup.share_key = x25519.X25519PrivateKey.from_private_bytes(fixed("share key", i))
    mask_key = x25519.X25519PrivateKey.from_private_bytes(fixed("mask key", i))
    setup.steps = [StepSecrets(seed=bytearray(fixed("seed", i)), mask_key=mask_key)]
    setup.advert = make_advert(i, setup.hash, setup.share_key, setup.steps, found.keys[i])
    return setup.advert


def _deal_context(keys: Adverts) -> bytes:
    return deal_context(keys.setup, [keys.adverts[i] for i in range(SIZE)])


def _site(found: Federation, i: int) -> dict[str, Any]:
    secret = {what.replace(" ", "_"): fixed(what, i).hex() for what in ("identity", "share key", "mask key", "seed")}
    return {"name": name(i), "identity_public": found.cohort.keys[i].hex(), **secret, "salt": fixed("salt", i).hex()}


def inputs() -> dict[int, np.ndarray]:
    """A vector a site, over the whole ring."""
    return {i: np.frombuffer(fixed("input", i)[: 4 * LENGTH], dtype="<u4").copy() for i in range(SIZE)}


def _sum(found: Federation, server: Server) -> dict[str, Any]:
    step, vectors = server.open_step(1, MODEL), inputs()
    there = [i for i in range(SIZE) if i != GONE]
    inboxes, masked, vectors_out = {}, {}, {}
    for i in there:
        inboxes[i] = server.inbox(name(i), step)
        found.sites[i].open_step(inboxes[i], MODEL)
        with patch("os.urandom", lambda count, i=i: fixed("salt", i)[:count]):
            masked[i], vectors_out[i], _ = found.sites[i].mask(vectors[i])
        step.add_masked(name(i), masked[i], vectors_out[i])
    survivors = step.survivors()
    confirmed = {i: found.sites[i].confirm(survivors) for i in there}
    for i, message in confirmed.items():
        step.add_confirmation(name(i), message)
    confirmations = step.confirmations()
    reveals = {i: found.sites[i].reveal(confirmations) for i in there}
    for i, message in reveals.items():
        step.add_reveal(name(i), message)
    return {
        "model": MODEL.hex(),
        "round": 1,
        "step_context": step.context.hex(),
        "inputs": {i: vectors[i].tolist() for i in there},
        "inboxes": {i: inboxes[i].to_bytes().hex() for i in there},
        "masked": {i: masked[i].to_bytes().hex() for i in there},
        "masked_vectors": {i: vectors_out[i].tolist() for i in there},
        "survivors": survivors.to_bytes().hex(),
        "confirmations": confirmations.to_bytes().hex(),
        "reveals": {i: reveals[i].to_bytes().hex() for i in there},
        "total": step.total().tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(transcript(), indent=1))
