"""What a set-up is about, who is in it, and the hashes that tie every key and every signature to it.

Each hash takes in the one before: terms and roster -> the keys of all sites -> who dealt shares, the round and the
model. Two sites that were told different things have different hashes: neither accepts what the other signed, and
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
    """SHA-256 of a labelled list of byte strings; no two lists give the same input."""
    found = hashlib.sha256(f"fedkt3d:secagg/{label}:v1\n".encode())
    for part in parts:
        found.update(memoryview(part).nbytes.to_bytes(8, "big"))
        found.update(part)
    return found.digest()


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Sites of a pinned roster. A site's index is its place in the order of names.

    Comes from the roster that the consortium signed and this party pinned, never from a message. The roster's version
    is no part of it: a renewed certificate changes the version, and neither names nor keys.
    """

    consortium: str
    names: tuple[str, ...]
    keys: tuple[bytes, ...]  # raw Ed25519 public keys

    @classmethod
    def of(cls, roster: Roster, names: Sequence[str] | None = None) -> Cohort:
        """Take the sites that the roster admits, or those of ``names``; SecAggError when it does not admit one."""
        chosen = tuple(sorted(roster.names() if names is None else set(names)))
        if not all(map(roster.admitted, chosen)):
            raise SecAggError("roster", "a site that the pinned roster does not admit")
        keys = tuple(bytes.fromhex(roster.sites[name].identity) for name in chosen)
        return cls(consortium=roster.consortium, names=chosen, keys=keys)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> bytes:
        """Hash of all of it."""
        return digest("roster", self.consortium.encode(), *(name.encode() for name in self.names), *self.keys)

    def index(self, name: str) -> int:
        """Return a site's index; SecAggError when the roster does not admit it."""
        try:
            return self.names.index(name)
        except ValueError:
            raise SecAggError("roster", "a site that the pinned roster does not admit") from None

    def name(self, index: int) -> str:
        """Return a site's name; SecAggError for an index outside the roster."""
        if not 0 <= index < len(self.names):
            raise SecAggError("roster", "a site that the pinned roster does not admit")
        return self.names[index]

    def verify(self, index: int, signature: bytes, message: bytes) -> None:
        """SecAggError, naming the site, unless it signed the message."""
        name = self.name(index)
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.keys[index]).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise SecAggError("signature", f"not signed by {name} for this context", [name]) from None


@dataclass(frozen=True, kw_only=True)
class Terms(Packed):
    """What the coordinator proposes for one set-up of ``steps`` sums; every field is in every signature.

    ``session``: the run. ``nonce``: fresh for each set-up. ``config``: hash of what both sides know of the run (model,
    plan). ``threshold``: shares that give a secret back. ``least_survivors``: fewest sites in a sum that counts (m).
    ``colluders``: sites that may side with the coordinator (t). ``ring_bits`` and ``length``: of the vectors.
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
        """SecAggError unless the terms are for this roster and secure against t colluders and the coordinator."""
        if self.roster != cohort.digest:
            raise SecAggError("roster", "the terms are for another roster than the one pinned here")
        sites, t = len(cohort), self.colluders
        if not 2 <= sites <= MOST_SITES:
            raise SecAggError("terms", f"secure aggregation takes 2 to {MOST_SITES} sites; the roster has {sites}")
        if t < 1:
            raise SecAggError("terms", "colluders: at least 1, since every site knows its own vector")
        least = least_threshold(sites, t)
        if not least <= self.threshold <= self.least_survivors <= sites:
            raise SecAggError(
                "terms",
                f"of {sites} sites with {t} colluding, threshold must be at least {least} and at most least_survivors,"
                f" which is at most {sites}; got {self.threshold} and {self.least_survivors}",
            )
        if self.ring_bits not in RINGS or not 1 <= self.length <= MOST_VALUES or not 1 <= self.steps <= MOST_STEPS:
            raise SecAggError("terms", "ring_bits, length or steps outside what secure aggregation takes")


@dataclass(frozen=True, kw_only=True)
class Floors:
    """A site's own limits: smallest roster, fewest survivors, fewest colluders that the threshold allows for.

    ``one_sum_a_round``: of one round reveal one sum alone, over one set of sites (replay.py). Needed where a site's
    vector is the same whenever it is asked for; where each sum carries noise of its own, the noise is what protects.
    """

    sites: int = 3
    survivors: int = 3
    colluders: int = 1
    one_sum_a_round: bool = True

    def check(self, terms: Terms, cohort: Cohort) -> None:
        """SecAggError when the terms are below one of them; the coordinator's wish never counts against it."""
        found = {"sites": len(cohort), "survivors": terms.least_survivors, "colluders": terms.colluders}
        for name, value in found.items():
            least = getattr(self, name)
            if value < least:
                raise SecAggError("terms", f"this site wants at least {least} {name}; the terms have {value}")


def least_threshold(sites: int, colluders: int) -> int:
    """Least threshold T = floor((N + t) / 2) + 1 that reveals no site by two contradicting sets of survivors.

    The N - t honest sites give one kind of share each, the t colluders both kinds: 2 T > N + t leaves no T for each.
    """
    return (sites + colluders) // 2 + 1


def setup_context(terms: Terms, cohort: Cohort) -> bytes:
    """Hash of what is known before any key is."""
    return digest("setup", terms.to_bytes(), cohort.digest)


def deal_context(setup: bytes, adverts: Sequence[bytes]) -> bytes:
    """Hash of the set-up and of all sites' signed keys, in order of sites."""
    return digest("deal", setup, *adverts)


def step_context(deal: bytes, dealers: Sequence[int], step: int, round_number: int, model: bytes) -> bytes:
    """Hash of all that one sum is about. ``dealers``: who dealt shares; ``model``: hash of what the sites work on."""
    numbers = b"".join(site.to_bytes(2, "big") for site in sorted(dealers))
    return digest("step", deal, numbers, step.to_bytes(2, "big"), round_number.to_bytes(4, "big"), model)


def to_sign(label: str, context: bytes, body: bytes) -> bytes:
    """Return the bytes that a signature covers. No document of privacy/trust/signed.py begins like this."""
    return digest(f"signed {label}", context, body)
