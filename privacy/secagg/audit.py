"""An audit of one sum, after it: does what a site opens fit what it signed? So a wrong sum is laid at a door.

A site opens the vector that it put in, with the salt of its commitment and the step's secrets. The secrets take the
masks off the vector that it sent, whose hash it signed. All that is compared was signed before anybody knew the sum, so
a site can neither change its input afterwards nor be blamed for another's. Opened secrets show no more of a site that
does not open: its masks with the others stay on. Only if all others open, its vector follows from the sum.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import x25519

from privacy.secagg.context import Cohort, to_sign
from privacy.secagg.dealing import agree, derive, seed_commitment
from privacy.secagg.errors import SecAggError
from privacy.secagg.masks import Ring, apply_masks, is_ring_vector, masked_hash
from privacy.secagg.messages import Advert, Masked
from privacy.secagg.site import Opening, input_commitment
from privacy.secagg.summation import Dealt


def check_opening(dealt: Dealt, context: bytes, message: Masked, opening: Opening, vector: Ring) -> str:
    """Return why a site's opening of its part in a sum does not fit what it signed; empty if all fits.

    ``dealt``: the set-up, with all signed keys; ``context``: the sum's (``Summation.context``); ``message``: what the
    site signed with its masked vector; ``vector``: (d,) what it says it put in.
    """
    site, advert = message.site, dealt.adverts[message.site]
    try:
        dealt.cohort.verify(site, message.signature, to_sign("input", context, message.body_to_sign()))
    except SecAggError:
        return "the site did not sign this message for this sum"
    if not is_ring_vector(vector, dealt.terms.ring_bits, dealt.terms.length):
        return "the vector has another length or ring"
    if input_commitment(context, site, opening.salt, vector) != message.commitment:
        return "the vector is not the one that the site committed to"
    if seed_commitment(opening.seed, dealt.setup, site, message.step) != advert.commitments[message.step]:
        return "the seed is not the one that the site committed to"
    key = x25519.X25519PrivateKey.from_private_bytes(opening.mask_key)
    if key.public_key().public_bytes_raw() != advert.mask_keys[message.step]:
        return "the mask key is not the one that the site signed"
    masked = vector.copy()
    apply_masks(masked, _masks(dealt.adverts, dealt.cohort, site, message.step, context, opening.seed, key))
    if masked_hash(masked) != message.masked:
        return "the masked vector that the site signed does not hold the vector that it committed to"
    return ""


def _masks(
    adverts: Mapping[int, Advert],
    cohort: Cohort,
    site: int,
    step: int,
    context: bytes,
    seed: bytes,
    key: x25519.X25519PrivateKey,
) -> list[tuple[bytes, int]]:
    """Return all masks that the site put on, as ``MaskingSite.mask`` does."""
    masks = [(derive(seed, "self", context, site), 1)]
    for other in sorted(set(adverts) - {site}):
        shared = agree(key, adverts[other].mask_keys[step], cohort, other)
        masks.append((derive(shared, "pair", context, *sorted((site, other))), 1 if site < other else -1))
    return masks
