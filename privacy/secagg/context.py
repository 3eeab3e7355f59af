"""The terms of a set-up, the sites in it, and the hashes that tie every key and every signature to it.

Each hash includes the one before it: terms and roster -> the keys of all sites -> who dealt shares, the round and the
model. Two sites that were told different things have different hashes. Then neither accepts what the other signed, and
their masks do not cancel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.secagg.errors import SecAggError
from privacy.secagg.layout import Field, Number, Packed, Raw
from privacy.secagg.masks import RINGS
from privacy.trust.roster import Roster

HASH_BYTES = 32
MOST_SITES = 128  # the graph is complete: each site shares keys with every other
MOST_STEPS = 64  # of one set-up
MOST_VALUES = 100_000_000


def digest(label: str, *parts: bytes | memoryview) -> bytes:
    """Return the SHA-256 of a labelled list of byte strings. Two different lists never give the same hash input."""
    found = hashlib.sha256(f"fedkt3d:secagg/{label}:v1\n".encode())
    for part in parts:
        found.update(memoryview(part).nbytes.to_bytes(8, "big"))
        found.update(part)
    return found.digest()


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Sites of a pinned roster. A site's index is its place in the order of names.

    It comes from the roster that the consortium signed and this party pinned, never from a message. It does not hold
    the roster's version: a renewed certificate changes the version but no name and no key.
    """

    consortium: str
    names: tuple[str, ...]
    keys: tuple[bytes, ...]  # raw Ed25519 public keys

    @classmethod
    def of(cls, roster: Roster, names: Sequence[str] | None = None) -> Cohort:
        """Take all sites that the roster admits, or those in ``names``; SecAggError if one of them is not admitted."""
        chosen = tuple(sorted(roster.names() if names is None else set(names)))
        if not all(map(roster.admitted, chosen)):
            raise SecAggError("roster", "a site is not admitted by the pinned roster")
        keys = tuple(bytes.fromhex(roster.sites[name].identity) for name in chosen)
        return cls(consortium=roster.consortium, names=chosen, keys=keys)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> bytes:
        """Hash of the consortium, the names and the keys."""
        return digest("roster", self.consortium.encode(), *(name.encode() for name in self.names), *self.keys)

    def index(self, name: str) -> int:
        """Return a site's index; SecAggError when the roster does not admit it."""
        try:
            return self.names.index(name)
        except ValueError:
            raise SecAggError("roster", "a site is not admitted by the pinned roster") from None

    def name(self, index: int) -> str:
        """Return a site's name; SecAggError for an index outside the roster."""
        if not 0 <= index < len(self.names):
            raise SecAggError("roster", "a site is not admitted by the pinned roster")
        return self.names[index]

    def verify(self, index: int, signature: bytes, message: bytes) -> None:
        """Raise SecAggError, naming the site, unless that site signed the message."""
        name = self.name(index)
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.keys[index]).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise SecAggError("signature", f"not signed by {name} for this context", [name]) from None


@dataclass(frozen=True, kw_only=True)
class SumTerms(Packed):
    """What the coordinator proposes for one set-up of ``steps`` sums. Every signature covers every field.

    ``session``: the run. ``nonce``: fresh for each set-up. ``config``: hash of what both sides know about the run
    (model, federation plan). ``threshold``: how many shares restore a secret. ``least_survivors``: fewest sites in a
    sum that counts (m). ``colluders``: how many sites may side with the coordinator (t). ``ring_bits`` and ``length``
    describe the vectors.
    """

    session: bytes
    nonce: bytes
    round: int
    steps: int
    config: bytes
    roster: bytes
    threshold: int
    least_survivors: int
    colluders: int
    ring_bits: int
    length: int

    TAG: ClassVar[int] = 1
    LAYOUT: ClassVar[dict[str, Field]] = {
        "session": Raw(16),
        "nonce": Raw(16),
        "round": Number(4),
        "steps": Number(2),
        "config": Raw(HASH_BYTES),
        "roster": Raw(HASH_BYTES),
        "threshold": Number(2),
        "least_survivors": Number(2),
        "colluders": Number(2),
        "ring_bits": Number(1),
        "length": Number(4),
    }

    def check(self, cohort: Cohort) -> None:
        """Raise SecAggError unless the terms fit this roster and are secure against t colluders and the coordinator."""
        if self.roster != cohort.digest:
            raise SecAggError("roster", "the terms are for another roster than the one pinned here")
        sites, t = len(cohort), self.colluders
        if not 2 <= sites <= MOST_SITES:
            raise SecAggError("terms", f"secure aggregation takes 2 to {MOST_SITES} sites; the roster has {sites}")
        if t < 1:
            raise SecAggError("terms", "colluders: must be at least 1, because every site knows its own vector")
        least = least_threshold(sites, t)
        if not least <= self.threshold <= self.least_survivors <= sites:
            raise SecAggError(
                "terms",
                f"of {sites} sites with {t} colluding, threshold must be at least {least} and at most least_survivors,"
                f" which is at most {sites}; got {self.threshold} and {self.least_survivors}",
            )
        if self.ring_bits not in RINGS or not 1 <= self.length <= MOST_VALUES or not 1 <= self.steps <= MOST_STEPS:
            raise SecAggError("terms", "ring_bits, length or steps is outside the range of secure aggregation")


@dataclass(frozen=True, kw_only=True)
class Floors:
    """A site's own limits: smallest roster, fewest survivors, fewest colluders that the threshold must withstand.

    ``one_sum_a_round``: reveal only one sum per round, over one set of sites (replay.py). This is needed if a site
    returns the same vector each time. If each sum carries fresh noise, that noise protects the site instead.
    """

    sites: int = 3
    survivors: int = 3
    colluders: int = 1
    one_sum_a_round: bool = True

    def check(self, terms: SumTerms, cohort: Cohort) -> None:
        """Raise SecAggError when the terms are below one of these limits. The coordinator cannot override them."""
        found = {"sites": len(cohort), "survivors": terms.least_survivors, "colluders": terms.colluders}
        for name, value in found.items():
            least = getattr(self, name)
            if value < least:
                raise SecAggError("terms", f"this site wants at least {least} {name}; the terms have {value}")


def least_threshold(sites: int, colluders: int) -> int:
    """Return the least threshold T = floor((N + t) / 2) + 1. Two contradicting sets of survivors then reveal no site.

    Each of the N - t honest sites reveals one kind of share, each of the t colluders both kinds: N + t shares in all.
    Since 2 T > N + t, there are never T shares of both kinds.
    """
    return (sites + colluders) // 2 + 1


def setup_context(terms: SumTerms, cohort: Cohort) -> bytes:
    """Return the hash of what is known before there are keys."""
    return digest("setup", terms.to_bytes(), cohort.digest)


def deal_context(setup: bytes, adverts: Sequence[bytes]) -> bytes:
    """Return the hash of the set-up and of all sites' signed keys, in order of sites."""
    return digest("deal", setup, *adverts)


def step_context(deal: bytes, dealers: Sequence[int], step: int, round_number: int, model: bytes) -> bytes:
    """Return the hash of everything one sum depends on. ``dealers``: who dealt shares; ``model``: hash of the work."""
    numbers = b"".join(site.to_bytes(2, "big") for site in sorted(dealers))
    return digest("step", deal, numbers, step.to_bytes(2, "big"), round_number.to_bytes(4, "big"), model)


def to_sign(label: str, context: bytes, body: bytes) -> bytes:
    """Return the bytes that a signature covers. No document of privacy/trust/signed.py begins with such bytes."""
    return digest(f"signed {label}", context, body)
