"""One record of a site's privacy ledger (privacy/dp/ledger.py): a charge and the hash of the record before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from privacy.dp.accountant import Charge
from privacy.trust.signed import canonical
from shared_model.core.errors import InputError
from shared_model.core.fields import Real, Rule, Text, Whole, check_values

SCHEMA = 1
SHOWINGS = 32
FIRST = "0" * 64  # stands for the hash before the first record
_HASH = Text(r"[0-9a-f]{64}", 64, "a SHA-256 in hex")
_RULES: Mapping[str, Rule] = {
    "schema": Whole(SCHEMA, SCHEMA),
    "number": Whole(1, 2**53),
    "before": _HASH,
    "time": Text(r"[0-9T:.+-]{20,40}", 40, "a UTC time"),
    "for": Text(r"[a-z][a-z0-9-]{0,31}", 32, "what was released"),
    "run": Text(r"[0-9a-f]{0,32}", 32, "a run id"),
    "round": Whole(0, 1_000_000),
    "z": Real(0.0, 1e9, above=True),
    "z_alone": Real(0.0, 1e9, above=True),
    "q": Real(0.0, 1.0, above=True),
    "count": Whole(1, 2**40),
    "hash": _HASH,
}


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One charge in the ledger: what for ("shared", "local", ...), in which run and round, and when (UTC)."""

    purpose: str
    run_id: str
    round: int
    charge: Charge
    time: str = ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a site shows of its ledger: the ``number`` of this showing, how many records, and their last hash.

    ``mark`` is random, so that two copies of a ledger never show the same. ``before``: hashes of the showings before
    this one, newest first, up to SHOWINGS; FIRST stands before the first one.
    """

    number: int
    records: int
    head: str
    mark: str
    before: tuple[str, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over all of it, in hex."""
        return hashlib.sha256(b"fedkt3d:shown:v1\n" + canonical(asdict(self))).hexdigest()


def record_of(entry: LedgerEntry, number: int, before: str) -> dict[str, Any]:
    """Return the record of ``entry`` with number ``number`` and the time now. ``before``: the last hash, or FIRST."""
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "number": number,
        "before": before,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "for": entry.purpose,
        "run": entry.run_id,
        "round": entry.round,
        "z": float(entry.charge.z),
        "z_alone": float(entry.charge.z_alone),
        "q": float(entry.charge.q),
        "count": entry.charge.count,
    }
    record = {**body, "hash": _hash(body)}
    check_values("schema", "ledger", record, _RULES)
    return record


def charge_of(record: Mapping[str, Any]) -> Charge:
    """Return a record's charge."""
    return Charge(z=record["z"], z_alone=record["z_alone"], q=record["q"], count=record["count"])


def entry_of(record: Mapping[str, Any]) -> LedgerEntry:
    """Return a record as an entry."""
    names = {"purpose": record["for"], "run_id": record["run"], "round": record["round"], "time": record["time"]}
    return LedgerEntry(**names, charge=charge_of(record))


def read_record(line: bytes, number: int, before: str) -> dict[str, Any] | None:
    """Return the record in ``line``; None unless it is number ``number``, unchanged, and follows hash ``before``."""
    try:
        record: Any = json.loads(line)
        if not isinstance(record, dict) or canonical(record) != line:
            return None
        check_values("schema", "ledger", record, _RULES)
    except (ValueError, RecursionError, InputError):
        return None
    body = {key: value for key, value in record.items() if key != "hash"}
    fitting = (record["number"], record["before"], record["hash"]) == (number, before, _hash(body))
    return record if fitting else None


def read_shown(raw: bytes) -> tuple[int, tuple[str, ...]]:
    """Return number and hashes of the newest showings, as the ledger keeps them in ``shown.json``."""
    try:
        found = json.loads(raw)
        return int(found["number"]), tuple(map(str, found["hashes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("privacy ledger: shown.json cannot be read; restore the ledger's folder") from error


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(b"fedkt3d:ledger:v1\n" + canonical(body)).hexdigest()
