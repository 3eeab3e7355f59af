"""The transparency log's documents: what is logged, signed tree heads, and the receipts that sites get.

The log is a list that only grows: a line in canonical JSON for each round of a run, for the statistics before its first
round, and for each act of the coordinator. A tree head commits to all lines so far (privacy/trust/merkle.py). It is
signed by the log's own key, which the consortium's document key certifies: a head is signed in each round by a process
that nobody watches, and that process needs no key that signs plans or rosters. A receipt proves to a site that the new
head continues the one it has, and that the rounds and statistics in it are in the log.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.trust import signed
from privacy.trust.merkle import EMPTY, continues, includes, leaf_hash
from privacy.trust.roster import CONSORTIUM, DIGEST, SITE_NAME, TIME, utc_now
from shared_model.core.errors import InputError
from shared_model.core.fields import Rule, Text, Whole, check_values

SCHEMA = 1
HEAD, LOG_KEY = "head", "logkey"
ROUND, STATISTICS = "round", "statistics"
_RUN = Text(r"[0-9a-f]{32}", 32, "a run id (32 hex digits)")
_HASH_OR_NONE = Text(r"([0-9a-f]{64})?", 64, "64 hex digits or nothing")
MOST = 2**31
_DEEPEST = 64  # hashes in a proof


class LogError(InputError):
    """A log was forked, cut, went back, or holds something else than its proofs say. The text may be sent."""


@dataclass(frozen=True, kw_only=True)
class RoundEntry:
    """One finished round. Hashes are SHA-256 in hex: ``before`` and ``after`` of the shared vector's float32 bytes,
    ``sum`` of the sum's bytes, ``plan`` and ``roster`` of the signed files, empty without one. ``sites``: whose
    answers are in the sum.
    """

    run: str
    round: int
    attempt: int
    sites: tuple[str, ...]
    before: str
    after: str
    sum: str
    plan: str = ""
    roster: str = ""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "run": _RUN,
        "round": Whole(1, 1_000_000),
        "attempt": Whole(1, 1_000_000),
        "before": DIGEST,
        "after": DIGEST,
        "sum": DIGEST,
        "plan": _HASH_OR_NONE,
        "roster": _HASH_OR_NONE,
    }

    def to_plain(self) -> dict[str, Any]:
        """Return what the log's line holds, without its time."""
        return {"act": ROUND, **asdict(self), "sites": list(self.sites)}

    @classmethod
    def from_plain(cls, line: Mapping[str, Any]) -> RoundEntry:
        """Read a line; LogError if it is not that of a round."""
        return cls(**_values(line, ROUND, cls.RULES))


@dataclass(frozen=True, kw_only=True)
class StatisticsEntry:
    """The noised counts of patients that the sites summed before a run's first round. Hashes as in a RoundEntry;
    ``trained_on`` is that of the ranges that were read from the sum, in canonical JSON. ``attempt``: how often the
    sites were asked, and so charged.
    """

    run: str
    attempt: int
    sites: tuple[str, ...]
    sum: str
    trained_on: str
    plan: str = ""
    roster: str = ""

    round: ClassVar[int] = 0  # they come before the first
    RULES: ClassVar[Mapping[str, Rule]] = {
        "run": _RUN,
        "attempt": Whole(1, 1_000_000),
        "sum": DIGEST,
        "trained_on": DIGEST,
        "plan": _HASH_OR_NONE,
        "roster": _HASH_OR_NONE,
    }

    def to_plain(self) -> dict[str, Any]:
        """Return what the log's line holds, without its time."""
        return {"act": STATISTICS, **asdict(self), "sites": list(self.sites)}

    @classmethod
    def from_plain(cls, line: Mapping[str, Any]) -> StatisticsEntry:
        """Read a line; LogError if it is not that of statistics."""
        return cls(**_values(line, STATISTICS, cls.RULES))


def _values(line: Mapping[str, Any], act: str, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Return the checked values of a line of this act; LogError if it is another one."""
    values = {key: value for key, value in line.items() if key not in ("act", "at")}
    sites = values.pop("sites", None)
    if line.get("act") != act or not isinstance(sites, list) or not all(map(SITE_NAME.accepts, sites)):
        raise LogError(f"log: not an entry of the act {act}")
    check_values("schema", f"log: {act}", values, rules)
    return {**values, "sites": tuple(sites)}


@dataclass(frozen=True, kw_only=True)
class TreeHead:
    """The log's state: its number of entries, and the root (hex) over them. ``at``: when it was signed (UTC)."""

    consortium: str
    size: int
    root: str
    at: str = field(default_factory=utc_now)

    RULES: ClassVar[Mapping[str, Rule]] = {
        "schema": Whole(SCHEMA, SCHEMA),
        "consortium": CONSORTIUM,
        "size": Whole(0, MOST),
        "root": DIGEST,
        "at": TIME,
    }

    def to_signed(self, key_pem: bytes, certified: bytes) -> bytes:
        """Sign the head with the log's key. ``certified``: what ``certify`` returned for that key."""
        return signed.sign(HEAD, {"schema": SCHEMA, **asdict(self), "key": signed.unpack(certified)}, key_pem)

    @staticmethod
    def from_signed(content: bytes, signer: signed.Signer, consortium: str) -> TreeHead:
        """Verify and read a head; InputError unless a key that ``signer`` certified for ``consortium`` signed it."""
        key = signed.read_unverified(HEAD, content).get("key")
        if not isinstance(key, dict):
            raise InputError("head: the certificate of its key is missing")
        document = signed.verify(HEAD, content, certified_key(signed.pack(key), signer, consortium))
        del document["key"]
        check_values("schema", HEAD, document, TreeHead.RULES)
        if document.pop("consortium") != consortium:
            raise InputError("head: it belongs to another consortium")
        del document["schema"]
        return TreeHead(consortium=consortium, **document)

    @property
    def root_bytes(self) -> bytes:
        """The root, 32 bytes."""
        return bytes.fromhex(self.root)


def certify(log_key: ed25519.Ed25519PublicKey, consortium: str, document_key_pem: bytes) -> bytes:
    """Have the consortium's document key certify the log's key; return the signed file."""
    document = {"schema": SCHEMA, "consortium": consortium, "key": log_key.public_bytes_raw().hex()}
    return signed.sign(LOG_KEY, document, document_key_pem)


def certified_key(content: bytes, signer: signed.Signer, consortium: str) -> ed25519.Ed25519PublicKey:
    """Return the log's key that ``certify`` certified; InputError unless ``signer`` did so for ``consortium``."""
    document = signed.verify(LOG_KEY, content, signer)
    rules: Mapping[str, Rule] = {"schema": Whole(SCHEMA, SCHEMA), "consortium": CONSORTIUM, "key": DIGEST}
    check_values("schema", LOG_KEY, document, rules)
    if document["consortium"] != consortium:
        raise InputError("logkey: it belongs to another consortium")
    return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(document["key"]))


@dataclass(frozen=True, kw_only=True)
class Proven:
    """An entry of the log, its place, and the hashes (hex) that prove it in the tree of ``size`` leaves."""

    index: int
    size: int
    line: Mapping[str, Any]
    proof: tuple[str, ...]

    def check(self, head: TreeHead) -> RoundEntry | StatisticsEntry:
        """Return the entry; LogError unless it is in the log that ``head`` commits to."""
        leaf = leaf_hash(signed.canonical(self.line))
        if head.size != self.size or not includes(leaf, self.index, head.size, unhex(self.proof), head.root_bytes):
            raise LogError(f"log: entry {self.index} is not in the tree of {head.size}")
        return (StatisticsEntry if self.line.get("act") == STATISTICS else RoundEntry).from_plain(self.line)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A signed head, the proof that it continues the head of size ``since``, and rounds and statistics in it."""

    head: bytes
    since: int
    proof: tuple[str, ...]
    rounds: tuple[Proven, ...] = ()

    def to_text(self) -> str:
        """Return the receipt as one line of ASCII."""
        rounds = [{**asdict(entry), "proof": list(entry.proof)} for entry in self.rounds]
        content = {"head": signed.unpack(self.head), "since": self.since, "proof": list(self.proof), "rounds": rounds}
        return signed.canonical(content).decode("ascii")

    @staticmethod
    def from_text(text: str) -> Receipt:
        """Read a receipt; LogError if it is not one."""
        try:
            content = json.loads(text)
            rounds = tuple(Proven(**{**entry, "proof": tuple(entry["proof"])}) for entry in content.pop("rounds"))
            head = signed.pack(content.pop("head"))
            made = Receipt(head=head, proof=tuple(content.pop("proof")), rounds=rounds, **content)
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
            raise LogError("log: not a receipt") from error
        whole = [made.since, *(number for entry in rounds for number in (entry.index, entry.size))]
        if not all(type(number) is int and 0 <= number <= MOST for number in whole):
            raise LogError("log: not a receipt")
        return made

    def check(self, signer: signed.Signer, seen: TreeHead | None, consortium: str) -> TreeHead:
        """Return the new head; LogError unless it continues ``seen`` (of size ``since``) and holds the rounds."""
        head = TreeHead.from_signed(self.head, signer, consortium)
        if self.since != (0 if seen is None else seen.size):
            raise LogError("log: the receipt does not begin with a head that is kept here")
        if seen is None or seen.size == 0:
            sound = not self.proof and (head.size > 0 or head.root_bytes == EMPTY)
        else:
            sound = continues(seen.size, seen.root_bytes, head.size, head.root_bytes, unhex(self.proof))
        if not sound:
            raise LogError(f"log: the log of {head.size} entries does not continue the one of {self.since}")
        for entry in self.rounds:
            entry.check(head)
        return head


def unhex(proof: Sequence[str]) -> list[bytes]:
    """Read the hashes of a proof; LogError if one is none."""
    if len(proof) > _DEEPEST or not all(map(DIGEST.accepts, proof)):
        raise LogError("log: a proof must be a list of hashes")
    try:
        return [binascii.unhexlify(text) for text in proof]
    except binascii.Error as error:
        raise LogError("log: a proof must be a list of hashes") from error
