"""A site's secrets for one set-up: make them, deal them to the other sites in sealed boxes, and open such boxes.

Each step has a seed b (the site's own mask) and an X25519 key (its masks with each other site). Both are shared by
Shamir's scheme. A box is AES-256-GCM under a key for this set-up, this sender and this receiver, used once. The sender
commits to each share. So the receiver recognises a wrong share, and a site that later reveals a wrong one is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secagg.context import HASH_BYTES, Cohort, digest, to_sign
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import SEED, STEP_COMMITMENTS, STEP_SHARES, TAG_BYTES, Advert, Deal
from privacy.secagg.shamir import SHARE_BYTES, is_share, split

_PROBE = x25519.X25519PrivateKey.generate()  # any key shows it: low order is a property of the other one
_NONCE = bytes(12)  # each box has a key of its own


@dataclass
class StepSecrets:
    """One step's secrets: the site's own, and the shares that it holds of others, by dealer (seed share, key share)."""

    seed: bytearray = field(default_factory=lambda: bytearray(os.urandom(32)))
    mask_key: x25519.X25519PrivateKey | None = field(default_factory=x25519.X25519PrivateKey.generate)
    held: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def wipe(self) -> None:
        """Forget all secrets. The seed is overwritten; the interpreter frees the rest."""
        self.seed[:] = bytes(len(self.seed))
        self.mask_key = None
        self.held.clear()


def make_advert(
    site: int,
    setup: bytes,
    share_key: x25519.X25519PrivateKey,
    steps: Sequence[StepSecrets],
    identity: Identity,
    ledger: bytes = b"",
) -> Advert:
    """Return the site's signed keys, with what it shows of its privacy ledger."""
    unsigned = Advert(
        site=site,
        share_key=share_key.public_key().public_bytes_raw(),
        mask_keys=tuple(open_key(s.mask_key).public_key().public_bytes_raw() for s in steps),
        commitments=tuple(seed_commitment(bytes(s.seed), setup, site, k) for k, s in enumerate(steps)),
        ledger=ledger,
        signature=bytes(64),
    )
    signature = identity.sign(to_sign("advert", setup, unsigned.body_to_sign()))
    return Advert(**{**vars(unsigned), "signature": signature})


Identity = ed25519.Ed25519PrivateKey


def check_adverts(
    adverts: Mapping[int, Advert], setup: bytes, cohort: Cohort, steps: int, known: Iterable[Advert] = ()
) -> None:
    """Raise SecAggError unless each site signed usable keys for this set-up and no key appears twice.

    ``known``: adverts of other sites that were checked before.
    """
    seen = {key for advert in known for key in (advert.share_key, *advert.mask_keys)}
    for site, advert in adverts.items():
        name = cohort.name(site)
        if advert.site != site or len(advert.mask_keys) != steps or len(advert.commitments) != steps:
            raise SecAggError("keys", f"the keys of {name} are for another site or another number of steps", [name])
        cohort.verify(site, advert.signature, to_sign("advert", setup, advert.body_to_sign()))
        keys = {advert.share_key, *advert.mask_keys}
        if len(keys) != steps + 1 or keys & seen:
            raise SecAggError("keys", f"{name} uses a key twice, or uses another site's key", [name])
        if not all(map(_gives_secrets, keys)):
            raise SecAggError("keys", f"{name} sent a key that cannot be used", [name])
        seen |= keys


def _gives_secrets(key: bytes) -> bool:
    """Return whether X25519 with this public key gives a secret: a key of low order gives none."""
    try:
        _PROBE.exchange(x25519.X25519PublicKey.from_public_bytes(key))
    except ValueError:
        return False
    return True


def seed_commitment(seed: bytes, setup: bytes, site: int, step: int) -> bytes:
    """Return H(b). It hides the seed, which has 256 bits of entropy, and binds its site to it."""
    return digest("seed", setup, site.to_bytes(2, "big"), step.to_bytes(2, "big"), seed)


def derive(secret: bytes, label: str, context: bytes, *sites: int) -> bytes:
    """Derive 32 bytes by HKDF-SHA256. Its info holds label, context and sites, in the order given."""
    info = digest(f"key {label}", context, *(site.to_bytes(2, "big") for site in sites))
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)


def agree(own: x25519.X25519PrivateKey, other: bytes, cohort: Cohort, site: int) -> bytes:
    """Run X25519 with another site's public key. SecAggError names that site if its key gives no secret."""
    try:
        return own.exchange(x25519.X25519PublicKey.from_public_bytes(other))
    except ValueError:
        name = cohort.name(site)
        raise SecAggError("keys", f"{name} sent a key that cannot be used", [name]) from None


def open_key(key: x25519.X25519PrivateKey | None) -> x25519.X25519PrivateKey:
    """Return the mask key; SecAggError if it was wiped already."""
    if key is None:
        raise SecAggError("stage", "the secrets of this step were wiped already")
    return key


def make_deal(
    site: int,
    context: bytes,
    threshold: int,
    share_key: x25519.X25519PrivateKey,
    steps: Sequence[StepSecrets],
    adverts: Mapping[int, Advert],
    cohort: Cohort,
    identity: Identity,
) -> Deal:
    """Share every step's secrets among the sites in ``adverts``. The site's own shares go straight into ``steps``."""
    content = {other: b"" for other in adverts}
    for step in steps:
        key = open_key(step.mask_key).private_bytes_raw()
        points = [other + 1 for other in adverts]
        seeds, keys = split(bytes(step.seed), threshold, points), split(key, threshold, points)
        step.held[site] = (seeds[site + 1], keys[site + 1])
        for other in adverts:
            content[other] += seeds[other + 1] + keys[other + 1]
    boxes = {}
    for other, advert in adverts.items():
        if other != site:
            key = derive(agree(share_key, advert.share_key, cohort, other), "box", context, site, other)
            boxes[other] = AESGCM(key).encrypt(_NONCE, content[other], _pair(context, site, other))
    commitments = {other: commit(content[other], context, site, other) for other in adverts}
    unsigned = Deal(site=site, boxes=boxes, commitments=commitments, signature=bytes(64))
    signature = identity.sign(to_sign("deal", context, unsigned.body_to_sign()))
    return Deal(**{**vars(unsigned), "signature": signature})


def check_deal(deal: Deal, site: int, context: bytes, sites: set[int], steps: int, cohort: Cohort) -> None:
    """Raise SecAggError unless the deal is complete, comes from ``site``, and is signed for this context."""
    name = cohort.name(site)
    box, commitments = steps * STEP_SHARES + TAG_BYTES, steps * STEP_COMMITMENTS
    if (
        deal.site != site
        or set(deal.boxes) != sites - {site}
        or set(deal.commitments) != sites
        or any(len(b) != box for b in deal.boxes.values())
        or any(len(c) != commitments for c in deal.commitments.values())
    ):
        raise SecAggError("shares", f"the shares of {name} are not for these sites and steps", [name])
    cohort.verify(site, deal.signature, to_sign("deal", context, deal.body_to_sign()))


def open_box(
    box: bytes, commitments: bytes, key: bytes, context: bytes, dealer: int, site: int, cohort: Cohort
) -> list[tuple[bytes, bytes]]:
    """Return (seed share, key share) per step. SecAggError names the dealer if the box was changed or does not fit."""
    name = cohort.name(dealer)
    try:
        content = AESGCM(key).decrypt(_NONCE, box, _pair(context, dealer, site))
    except InvalidTag:
        raise SecAggError("shares", f"the shares of {name} cannot be opened", [name]) from None
    pairs = [
        (content[at : at + SHARE_BYTES], content[at + SHARE_BYTES : at + STEP_SHARES])
        for at in range(0, len(content), STEP_SHARES)
    ]
    if commit(content, context, dealer, site) != commitments or not all(is_share(s) for pair in pairs for s in pair):
        raise SecAggError("shares", f"the shares of {name} are not the ones that it committed to", [name])
    return pairs


def commit(content: bytes, context: bytes, dealer: int, receiver: int) -> bytes:
    """Return the commitments to a receiver's shares: HASH_BYTES each, in order."""
    shares = [content[at : at + SHARE_BYTES] for at in range(0, len(content), SHARE_BYTES)]
    return b"".join(_share_commitment(s, context, dealer, receiver, at) for at, s in enumerate(shares))


def fits_commitment(
    share: bytes, commitments: bytes, context: bytes, dealer: int, receiver: int, step: int, kind: int
) -> bool:
    """Return whether a revealed share is the one that the dealer committed to."""
    at = 2 * step + (kind != SEED)
    expected = commitments[at * HASH_BYTES : (at + 1) * HASH_BYTES]
    return is_share(share) and _share_commitment(share, context, dealer, receiver, at) == expected


def _share_commitment(share: bytes, context: bytes, dealer: int, receiver: int, at: int) -> bytes:
    return digest("share", context, _pair(b"", dealer, receiver), at.to_bytes(2, "big"), share)


def _pair(context: bytes, sender: int, receiver: int) -> bytes:
    return context + sender.to_bytes(2, "big") + receiver.to_bytes(2, "big")
