"""An audit of one sum, after it: does what a site opens fit what it signed? So a wrong sum is laid at a door.

A site opens the vector that it put in, with the salt of its commitment and the step's secrets. The secrets take the
masks off the vector that it sent, whose hash it signed. All that is compared was signed before anybody knew the sum, so
a site can neither change its input afterwards nor be blamed for another's. Opened secrets show no more of a site that
does not open: its masks with the others stay on. Only if all others open, its vector follows from the sum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import x25519

from privacy.secagg.context import HASH_BYTES, Cohort, SumTerms, deal_context, setup_context, step_context, to_sign
from privacy.secagg.dealing import agree, check_adverts, derive, seed_commitment
from privacy.secagg.errors import SecAggError
from privacy.secagg.layout import Field, Number, Packed, Raw
from privacy.secagg.masks import RINGS, Ring, apply_masks, is_ring_vector, masked_hash
from privacy.secagg.messages import KEY_BYTES, Advert, Masked
from privacy.secagg.site import SALT_BYTES, Opening, input_commitment
from privacy.secagg.summation import Dealt, Summation
from shared_model.core.fields import MessageError

_SCHEMA = 1
_HEAD_BYTES = 4  # before an opening's packed part: its length


@dataclass(frozen=True, kw_only=True)
class SumRecord:
    """What was signed for one sum: all that judges an opening, and no secret, no vector and no count.

    ``adverts``: the keys of all sites that sent any, as signed; ``dealers``: the sites that dealt shares; ``inputs``:
    what each site in the sum signed with its masked vector (``Masked``); ``total``: ``masked_hash`` of the sum.
    Every site of the set-up was sent the adverts; commitments hide what they are to.
    """

    terms: SumTerms
    cohort: Cohort
    adverts: Mapping[int, bytes]
    dealers: tuple[int, ...]
    step: int
    round: int
    model: bytes
    inputs: Mapping[int, bytes]
    total: bytes

    @classmethod
    def of(cls, summation: Summation, total: Ring) -> SumRecord:
        """Return the record of a sum whose masks are off; ``total``: (d,) over the terms' ring."""
        dealt = summation.dealt
        return cls(
            terms=dealt.terms,
            cohort=dealt.cohort,
            adverts=dict(dealt.signed),
            dealers=tuple(sorted(dealt.adverts)),
            step=summation.number,
            round=summation.round,
            model=summation.model,
            inputs={dealt.cohort.index(site): m.to_bytes() for site, m in summation.inputs.items()},
            total=masked_hash(total),
        )

    @cached_property
    def dealt(self) -> Dealt:
        """The set-up, made again from what was signed; SecAggError unless the terms and all signed keys hold."""
        self.terms.check(self.cohort)
        adverts = {site: Advert.from_bytes(self.adverts[site]) for site in sorted(self.adverts)}
        setup = setup_context(self.terms, self.cohort)
        check_adverts(adverts, setup, self.cohort, self.terms.steps)
        if not set(self.inputs) <= set(self.dealers) <= set(adverts) or not 0 <= self.step < self.terms.steps:
            raise SecAggError("stage", "the record names a site or a step that its set-up does not have")
        return Dealt(
            terms=self.terms,
            cohort=self.cohort,
            setup=setup,
            hash=deal_context(setup, [self.adverts[site] for site in sorted(self.adverts)]),
            signed=self.adverts,
            adverts={site: adverts[site] for site in self.dealers},
            commitments={},
        )

    @cached_property
    def context(self) -> bytes:
        """The hash of everything that the sum depended on, which every signature of it covers."""
        return step_context(self.dealt.hash, self.dealers, self.step, self.round, self.model)

    def check(self) -> None:
        """Raise SecAggError unless each site of the sum signed its own part, for this set-up, step, round and model."""
        for site, found in self.inputs.items():
            message = Masked.from_bytes(found)
            if message.site != site or message.step != self.step:
                raise SecAggError("stage", "the record holds a message of another site or step")
            self.cohort.verify(site, message.signature, to_sign("input", self.context, message.body_to_sign()))

    def to_plain(self) -> dict[str, Any]:
        """Return the record for JSON; bytes as hex."""
        return {
            "schema": _SCHEMA,
            "terms": self.terms.to_bytes().hex(),
            "consortium": self.cohort.consortium,
            "sites": {name: key.hex() for name, key in zip(self.cohort.names, self.cohort.keys, strict=True)},
            "adverts": {str(site): found.hex() for site, found in sorted(self.adverts.items())},
            "dealers": list(self.dealers),
            "step": self.step,
            "round": self.round,
            "model": self.model.hex(),
            "inputs": {str(site): found.hex() for site, found in sorted(self.inputs.items())},
            "total": self.total.hex(),
        }

    @classmethod
    def from_json(cls, data: bytes) -> SumRecord:
        """Read a record; MessageError where it is none. No signature is checked yet: ``dealt`` does that."""
        try:
            plain = json.loads(data)
            if plain["schema"] != _SCHEMA:
                raise ValueError("schema")
            sites = {str(name): bytes.fromhex(key) for name, key in plain["sites"].items()}
            return cls(
                terms=SumTerms.from_bytes(bytes.fromhex(plain["terms"])),
                cohort=Cohort(consortium=str(plain["consortium"]), names=tuple(sites), keys=tuple(sites.values())),
                adverts={int(site): bytes.fromhex(found) for site, found in plain["adverts"].items()},
                dealers=tuple(int(site) for site in plain["dealers"]),
                step=int(plain["step"]),
                round=int(plain["round"]),
                model=bytes.fromhex(plain["model"]),
                inputs={int(site): bytes.fromhex(found) for site, found in plain["inputs"].items()},
                total=bytes.fromhex(plain["total"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise MessageError("schema", "expected the signed record of a sum, from `server dispute`") from error


@dataclass(frozen=True, kw_only=True)
class _OpeningHead(Packed):
    """The part of an opening in front of the vector."""

    site: int
    bits: int
    context: bytes
    salt: bytes
    seed: bytes
    mask_key: bytes

    TAG: ClassVar[int] = 12
    LAYOUT: ClassVar[dict[str, Field]] = {
        "site": Number(2),
        "bits": Number(1),
        "context": Raw(HASH_BYTES),
        "salt": Raw(SALT_BYTES),
        "seed": Raw(KEY_BYTES),
        "mask_key": Raw(KEY_BYTES),
    }


@dataclass(frozen=True, kw_only=True)
class OpenedInput:
    """What a site shows in an audit: its vector (d,) of one sum, UNMASKED, and what opens its signed messages."""

    site: int
    opening: Opening
    vector: Ring

    def to_bytes(self) -> bytes:
        """Return the opening's one form. Whoever reads it has the vector."""
        bits = next(bits for bits, kind in RINGS.items() if kind == self.vector.dtype)
        head = _OpeningHead(site=self.site, bits=bits, **vars(self.opening)).to_bytes()
        return len(head).to_bytes(_HEAD_BYTES, "big") + head + self.vector.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> OpenedInput:
        """Read an opening; MessageError for any other bytes."""
        start = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "big")
        head = _OpeningHead.from_bytes(data[_HEAD_BYTES:start])
        kind = RINGS.get(head.bits)
        if kind is None or (len(data) - start) % kind.itemsize:
            raise MessageError("schema", "expected an opening of a site's part in a sum")
        opening = Opening(context=head.context, salt=head.salt, seed=head.seed, mask_key=head.mask_key)
        return cls(site=head.site, opening=opening, vector=np.frombuffer(data, kind, offset=start))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One opening, judged. ``wrong``: why it does not fit, empty if it fits. ``rms``, ``largest``: of its numbers.

    These are in steps of the ring, taken as signed numbers: a vector that is many times larger than all others fits
    what its site signed, and is still what spoilt the sum.
    """

    site: str
    wrong: str
    rms: float
    largest: int


def judge(record: SumRecord, opened: Sequence[OpenedInput]) -> tuple[list[Judged], bool | None]:
    """Judge openings of one sum, and say whether they add up to it: None while a site in the sum has not opened.

    SecAggError when the record does not hold together, or an opening is of a site that is not in the sum.
    """
    record.check()
    dealt, context, found = record.dealt, record.context, []
    for one in opened:
        if one.site not in record.inputs:
            raise SecAggError("stage", "an opening is of a site that is not in this sum")
        message = Masked.from_bytes(record.inputs[one.site])
        wrong = check_opening(dealt, context, message, one.opening, one.vector)
        if one.opening.context != context:
            wrong = "it opens another sum than this one"
        rms, largest = _size(one.vector)
        found.append(Judged(site=record.cohort.name(one.site), wrong=wrong, rms=rms, largest=largest))
    vectors = {one.site: one.vector for one in opened}
    if set(vectors) != set(record.inputs) or any(one.wrong for one in found):
        return found, None
    total = np.zeros(record.terms.length, RINGS[record.terms.ring_bits])
    for vector in vectors.values():
        total += vector
    return found, masked_hash(total) == record.total


def described(judged: Sequence[Judged], whole: bool | None) -> list[str]:
    """Return verdicts for a person, one line each."""
    lines = [
        f"{one.site}: {'DOES NOT FIT: ' + one.wrong if one.wrong else 'fits what it signed'}"
        f" (root mean square {one.rms:.4g} steps, largest {one.largest})"
        for one in judged
    ]
    if whole is not None:
        lines.append("the openings add up to the sum" if whole else "ALL OPENINGS FIT, BUT DO NOT ADD UP TO THE SUM")
    return lines


def _size(vector: Ring) -> tuple[float, int]:
    if not vector.size:
        return 0.0, 0
    signed = vector.view(f"<i{vector.itemsize}").astype(np.float64)
    return math.sqrt(float(np.mean(signed**2))), int(np.abs(signed).max())


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
