"""What this site has seen of the coordinator's transparency log, and the rounds that it worked in itself.

``HOME/state/log/``: ``heads.jsonl`` (each signed head, with the proof that it continues the one before),
``rounds.jsonl`` (rounds and statistics that receipts proved), ``own.jsonl`` (the rounds that this site worked in, and
which sets of sites it signed; statistics as round 0). A head that contradicts a kept one is refused and kept in
``refused.jsonl``: it is signed, so it proves to anybody that the coordinator keeps two logs. A receipt that goes on
from an older head than the newest may be a message that came late: it is neither kept nor held against the newest head,
and what it hides, comparing with other sites shows.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.site.home import ClientHome
from privacy.trust import signed
from privacy.trust.identity import read_input
from privacy.trust.merkle import continues
from privacy.trust.public_log import LogError, Proven, Receipt, RoundEntry, StatisticsEntry, TreeHead, unhex
from shared_model.core.errors import InputError, PolicyError
from shared_model.core.files import PRIVATE, StorageError, sync_folder
from shared_model.core.vector import Vector

_ANOTHER = "log: the coordinator's log is not the one seen here (`client verify`)"
_MOST_REFUSED = 20  # receipts of 100 kB at most
_BAD_LINE = "cannot be read; restore it, or begin anew with `client verify --new-log`"


@dataclass(frozen=True, kw_only=True)
class OwnRound:
    """A round that this site worked in: SHA-256 (hex) of the vector that it was given, and sets of sites it signed.

    Round 0, the statistics: without a vector, and known from their signed sets alone.
    """

    run: str
    round: int
    vector: str
    signed: tuple[tuple[str, ...], ...]


class SeenLog:
    """The log as one site knows it."""

    def __init__(self, home: ClientHome) -> None:
        self._home = home
        self.folder = home.folder / "state" / "log"

    def size(self) -> int:
        """Return the number of entries under the newest head; 0 before there is one."""
        lines = self._lines("heads")
        return 0 if not lines else _size_of(lines[-1])

    def take(self, text: str) -> None:
        """Check a receipt and keep it, durably. PolicyError where it does not continue what was seen here."""
        with self._locked():
            kept = self._lines("heads")
            newest = _size_of(kept[-1]) if kept else 0
            receipt, signer = self._signed(text)
            try:
                seen = next((self._head(line) for line in kept if _size_of(line) == receipt.since), None)
                if receipt.since and seen is None:
                    raise PolicyError(f"{_ANOTHER}: it begins with {receipt.since} entries, a head not kept here")
                head = receipt.check(signer, seen, self._home.consortium)
                same = next((self._head(line) for line in kept if _size_of(line) == head.size), None)
                if same is not None and same.root != head.root:
                    raise LogError(f"log: two heads of {head.size} entries differ")
            except InputError as error:
                if self.refused() < _MOST_REFUSED:
                    self._append("refused", {"receipt": text})
                raise PolicyError(_ANOTHER) from error
            if same is not None or 0 < receipt.since < newest:
                return  # nothing new, or a message that came late: the next one begins with the newest head
            if receipt.since != newest:
                # No proof of anything: an older head, or one that goes on from none, may be a message of long ago.
                raise PolicyError(f"{_ANOTHER}: {newest} entries were seen, and {head.size} do not go on from them")
            for entry in receipt.rounds:
                self._append("rounds", asdict(entry))
            self._append("heads", {"head": signed.unpack(receipt.head), "proof": list(receipt.proof)})

    def _signed(self, text: str) -> tuple[Receipt, signed.Signer]:
        """A receipt whose head the coordinator signed: only such a one can convict it. PolicyError for any other."""
        signer = self._home.document_keys().lasting()
        try:
            receipt = Receipt.from_text(text)
            TreeHead.from_signed(receipt.head, signer, self._home.consortium)
        except InputError as error:
            raise PolicyError(f"{_ANOTHER}: the receipt is not signed as it should be") from error
        return receipt, signer

    def note_work(self, run: str, number: int, vector: Vector) -> None:
        """Note, before an answer leaves, that this site works in a round on ``vector`` (d,) float32."""
        self._append("own", {"run": run, "round": number, "vector": hashlib.sha256(vector.data.cast("B")).hexdigest()})

    def note_signed(self, run: str, number: int, sites: Sequence[str]) -> None:
        """Note that this site signed that a round's sum is over ``sites``."""
        self._append("own", {"run": run, "round": number, "sites": list(sites)})

    def own_rounds(self) -> list[OwnRound]:
        """Return the rounds that this site worked in, in order, and the statistics that it signed."""
        vectors: dict[tuple[str, int], str] = {}
        sets: dict[tuple[str, int], dict[tuple[str, ...], None]] = {}
        for line in self._lines("own"):
            key = (str(line.get("run")), int(line.get("round", 0)))
            if "vector" in line:
                vectors[key] = str(line["vector"])
            else:
                sets.setdefault(key, {})[tuple(line.get("sites", ()))] = None
                vectors |= {key: ""} if key[1] == StatisticsEntry.round else {}
        return [
            OwnRound(run=run, round=number, vector=vector, signed=tuple(sets.get((run, number), ())))
            for (run, number), vector in vectors.items()
        ]

    def refused(self) -> int:
        """Return how many receipts were refused."""
        return len(self._lines("refused"))

    def heads(self) -> list[TreeHead]:
        """Return all kept heads, each verified; LogError unless each continues the one before it."""
        return check_chain(self._lines("heads"), self._home)

    def proven(self, heads: Sequence[TreeHead]) -> list[RoundEntry | StatisticsEntry]:
        """Return what the receipts proved, in order of the log; LogError unless each is under its head."""
        by_size = {head.size: head for head in heads}
        found: dict[int, RoundEntry | StatisticsEntry] = {}
        for line in self._lines("rounds"):
            entry = Proven(**{**line, "proof": tuple(line["proof"])})
            if entry.size not in by_size:  # the receipt was cut off by a crash, and will come again
                continue
            found[entry.index] = entry.check(by_size[entry.size])
        return [found[index] for index in sorted(found)]

    def kept_heads(self) -> bytes:
        """Return the file of kept heads, which other sites may compare with theirs. It names no patient."""
        return b"".join(signed.canonical(line) + b"\n" for line in self._lines("heads"))

    def begin_anew(self) -> Path:
        """Put what was seen aside and begin with the next head. Return the folder that holds the old one."""
        number = 1
        while (aside := self.folder.with_name(f"log.{number}")).exists():
            number += 1
        if self.folder.exists():
            self.folder.rename(aside)
        return aside

    def _head(self, line: Mapping[str, Any]) -> TreeHead:
        return TreeHead.from_signed(signed.pack(line["head"]), self._home.document_keys().kept(), self._home.consortium)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.jsonl"
        return read_lines(path.read_bytes(), path) if path.exists() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the log: a site answers in several threads, and two may bring the same receipt."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "take.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add a line, durably. What a crash left of a line is cut off first."""
        path = self.folder / f"{name}.jsonl"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
                file.write(signed.canonical(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.folder)
        except OSError as error:
            raise StorageError(path, error) from error


def read_lines(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Read whole lines of JSON objects; InputError naming ``path`` for anything else."""
    try:
        lines = [json.loads(line) for line in content.rpartition(b"\n")[0].split(b"\n") if line]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {_BAD_LINE}") from error
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{path}: {_BAD_LINE}")
    return lines


def read_heads(path: Path, home: ClientHome) -> list[TreeHead]:
    """Read another site's kept heads; InputError unless they are signed and each continues the one before."""
    return check_chain(read_lines(read_input(path), path), home)


def check_chain(lines: Sequence[Mapping[str, Any]], home: ClientHome) -> list[TreeHead]:
    """Return the heads of a file, verified; LogError unless each continues the one before it."""
    signer, found = home.document_keys().kept(), []
    for line in lines:
        head, proof = line.get("head"), line.get("proof")
        if not isinstance(head, dict) or not isinstance(proof, list):
            raise LogError("log: not a file of heads")
        found.append(TreeHead.from_signed(signed.pack(head), signer, home.consortium))
        if len(found) > 1:
            older, newer = found[-2:]
            if not continues(older.size, older.root_bytes, newer.size, newer.root_bytes, unhex(proof)):
                raise LogError(f"log: the head of {newer.size} entries does not continue the one of {older.size}")
    return found


def _size_of(line: Mapping[str, Any]) -> int:
    try:
        return int(line["head"]["document"]["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"log: the file of heads {_BAD_LINE}") from error
