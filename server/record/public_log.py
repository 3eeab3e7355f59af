"""The transparency log of a coordinator: what it did, in a file that only grows, and receipts for the sites.

``HOME/public_log/``: ``entries.jsonl`` (a line in canonical JSON for each round and act), ``head.json`` (the newest
signed head) and ``log_key.json`` (the certificate, by the document key, of the key that signs heads). That key is in
another folder (``HOME/ca/log.key``), so that the log's folder can be copied to whoever wants to read it. An
entry is on the disk before the roster, plan or vector that it tells of, so an act that a crash cut short may be listed
twice. (A site's node may be known to the SuperLink a moment before its admission is listed.)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ed25519
from numpy.typing import NDArray

from privacy.trust import certificates, signed
from privacy.trust.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from privacy.trust.public_log import (
    ROUND,
    STATISTICS,
    Proven,
    Receipt,
    RoundEntry,
    StatisticsEntry,
    TreeHead,
    certified_key,
    certify,
)
from privacy.trust.roster import utc_now
from server.record.history import RoundRecord
from shared_model.core.errors import InputError
from shared_model.core.files import PRIVATE, PUBLIC, StorageError, create_file, sync_folder, write_bytes
from shared_model.core.vector import Vector

# Rounds in one receipt, which travels in the head of a message and must fit into it (privacy/wire/heads.py).
_ROUNDS, MOST_TEXT = (12, 4, 1), 100_000


class PublicLog:
    """The log in ``folder``, whose heads the private key in the file ``key`` signs. Several processes may add to it."""

    def __init__(self, folder: Path, consortium: str, *, key: Path) -> None:
        self._folder, self._consortium, self._key = folder, consortium, key
        self._lines: list[bytes] = []
        self._leaves: list[bytes] = []
        self._read = 0
        self._heads: dict[int, bytes] = {}

    @property
    def path(self) -> Path:
        """The file of the entries."""
        return self._folder / "entries.jsonl"

    def certify(self, document_key_pem: bytes, lasting: Sequence[ed25519.Ed25519PublicKey] = ()) -> None:
        """Make the log's key, and have the document key certify it, where that was not done before.

        A certificate by one of ``lasting``, document keys that do not end soon, stays: sites that do not have the
        current key yet go on accepting heads.
        """
        key, certificate = self._key, self._folder / "log_key.json"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key.exists():
            create_file(key, certificates.new_signing_key(), PRIVATE)
        public = signed.private_key(key.read_bytes()).public_key()
        if certificate.exists() and _is_certified(certificate.read_bytes(), lasting, self._consortium):
            return
        content = certify(public, self._consortium, document_key_pem)
        if not certificate.exists() or certificate.read_bytes() != content:
            write_bytes(certificate, content, mode=PUBLIC)
            self._heads.clear()

    def add(self, act: str, **told: Any) -> None:
        """Add an act, durably. StorageError when the disk is full."""
        self._append({"act": act, "at": utc_now(), **told})

    def add_round(self, entry: RoundEntry) -> None:
        """Add a finished round, unless its last entry says the same: a run that starts again repeats a step."""
        earlier = [line for line in self.entries() if (line.get("run"), line.get("round")) == (entry.run, entry.round)]
        if not earlier or RoundEntry.from_plain(earlier[-1]) != entry:
            self._append({**entry.to_plain(), "at": utc_now()})

    def add_statistics(self, entry: StatisticsEntry) -> None:
        """Add a run's statistics, unless the last entry of that run's says the same."""
        earlier = [line for line in self.entries() if (line.get("run"), line["act"]) == (entry.run, STATISTICS)]
        if not earlier or StatisticsEntry.from_plain(earlier[-1]) != entry:
            self._append({**entry.to_plain(), "at": utc_now()})

    def entries(self, since: int = 0) -> list[dict[str, Any]]:
        """Return all entries but the first ``since``, oldest first. InputError when a line is no entry."""
        self._load()
        return [json.loads(line) for line in self._lines[since:]]

    def size(self) -> int:
        """Return the number of entries."""
        self._load()
        return len(self._leaves)

    def root(self, size: int | None = None) -> str:
        """Return the root (hex) over the first ``size`` entries, or over all."""
        self._load()
        return root_of(self._leaves[:size]).hex()

    def head(self, size: int | None = None) -> bytes | None:
        """Return a signed head; None where the log has no key. The newest one is kept on the disk."""
        key, certificate = self._key, self._folder / "log_key.json"
        newest = self.size()
        size = newest if size is None else size
        if size not in self._heads:
            if not key.exists() or not certificate.exists():
                return None
            made = TreeHead(consortium=self._consortium, size=size, root=self.root(size))
            self._heads[size] = made.to_signed(key.read_bytes(), certificate.read_bytes())
            if size == newest:
                write_bytes(self.kept_head, self._heads[size], mode=PUBLIC)
        return self._heads[size]

    @property
    def kept_head(self) -> Path:
        """The file of the newest signed head."""
        return self._folder / "head.json"

    def receipt(self, seen: int) -> str:
        """Return what a site should get whose newest head has ``seen`` entries; empty if there is nothing new.

        To a site that has seen more than there is goes the head as it is. The site will refuse it, as it should.
        """
        size = self.size()
        if size == seen:
            return ""
        since = seen if seen < size else 0
        rounds = [i for i in range(since, size) if json.loads(self._lines[i]).get("act") in (ROUND, STATISTICS)]
        for most in _ROUNDS:
            told = rounds[:most]
            text = self._receipt(since, size if len(rounds) <= most else told[-1] + 1, told)
            if len(text) <= MOST_TEXT:
                return text
        return ""  # one round of so many sites that no message takes it: the sites get none

    def _receipt(self, since: int, size: int, rounds: list[int]) -> str:
        """The head of ``size`` entries, that it continues ``since``, ``rounds`` with proofs; empty without a key."""
        head, leaves = self.head(size), self._leaves[:size]
        if head is None:
            return ""
        proven = tuple(
            Proven(index=i, size=size, line=json.loads(self._lines[i]), proof=_hex(inclusion_proof(leaves, i)))
            for i in rounds
        )
        proof = _hex(consistency_proof(leaves, since)) if since else ()
        return Receipt(head=head, since=since, proof=proof, rounds=proven).to_text()

    def _load(self) -> None:
        """Read the lines that were added since the last look. A line without its end is still being written."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return
        self._read += len(whole) + 1
        for line in whole.split(b"\n"):
            try:
                entry = json.loads(line)
                exact = signed.canonical(entry) == line and {"act", "at"} <= entry.keys()
            except (ValueError, RecursionError, AttributeError):
                exact = False
            if not exact:
                raise InputError(f"{self.path}: line {len(self._lines) + 1} is no entry of the log; restore the file")
            self._lines.append(line)
            self._leaves.append(leaf_hash(line))

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked() as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(0)
                torn = end - (file.read().rfind(b"\n") + 1)  # a line that a crash cut off was never in a head
                file.truncate(end - torn)
                file.seek(0, os.SEEK_END)
                file.write(signed.canonical(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(self.path, error) from error

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """The log as a run sees it: with the hashes (hex) of the plan, or nothing, and of the roster that it is under."""

    log: PublicLog
    plan: str
    roster: str

    def add_round(self, run: str, record: RoundRecord, before: Vector, after: Vector, total: NDArray[Any]) -> None:
        """Log a finished round: shared vector (d,) before and after it, and its sum (k,)."""
        entry = RoundEntry(
            run=run,
            round=record.round,
            attempt=record.attempt,
            sites=tuple(sorted(record.sites)),
            before=number_hash(before),
            after=number_hash(after),
            sum=number_hash(total),
            plan=self.plan,
            roster=self.roster,
        )
        self.log.add_round(entry)

    def add_statistics(
        self, run: str, attempt: int, sites: Sequence[str], total: NDArray[Any], trained_on: Mapping[str, Any]
    ) -> None:
        """Log statistics: how often the sites were asked, the sum (k,) over ``sites``, and the ranges it gave."""
        entry = StatisticsEntry(
            run=run,
            attempt=attempt,
            sites=tuple(sorted(sites)),
            sum=number_hash(total),
            trained_on=plain_hash(trained_on),
            plan=self.plan,
            roster=self.roster,
        )
        self.log.add_statistics(entry)


def _is_certified(content: bytes, lasting: Sequence[ed25519.Ed25519PublicKey], consortium: str) -> bool:
    try:
        certified_key(content, lasting, consortium)
    except InputError:
        return False
    return True


def file_hash(content: bytes) -> str:
    """Return the SHA-256 (hex) of a signed file; its newline at the end, which mail programs change, is left out."""
    return hashlib.sha256(content.rstrip(b"\r\n")).hexdigest()


def number_hash(numbers: NDArray[Any]) -> str:
    """Return the SHA-256 (hex) of an array's little-endian bytes."""
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data.cast("B")).hexdigest()


def plain_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of plain values in canonical JSON."""
    return hashlib.sha256(signed.canonical(content)).hexdigest()


def _hex(proof: list[bytes]) -> tuple[str, ...]:
    return tuple(part.hex() for part in proof)
