"""A site's privacy ledger: what it has spent in all, over every run, stage and coordinator. Nobody can overdraw it.

``ledger.jsonl`` holds one record a charge, each with the hash of the one before; ``head.json`` says how many records
there are and the last one's hash. A charge is on the disk (fsync) BEFORE anything leaves for it: a process that is
killed in between has paid for a release that never was, never the other way round. Records that were edited, cut off
or put in another order are found when the ledger is read, and the site then refuses to release anything.

What this cannot see: a folder that is put back as a whole from an older copy, or deleted. Keep it off such backups.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.accountant import Charge, budget, epsilon, profile
from privacy.fields import Real, Rule, Text, Whole, check_values
from privacy.signed import canonical
from shared_model.errors import InputError, PolicyError

SCHEMA = 1
_FIRST = "0" * 64
_RECORDS, _HEAD, _LOCK = "ledger.jsonl", "head.json", "lock"
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
class Entry:
    """One charge as it stands in the ledger: for what ("shared", "local", ...), in which run and round, when (UTC)."""

    purpose: str
    run_id: str
    round: int
    charge: Charge
    time: str = ""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What all charges cost: epsilon towards at most t colluders, and towards all others together."""

    epsilon: float
    epsilon_alone: float
    delta: float
    entries: int


@dataclass(frozen=True, kw_only=True)
class SiteLedger:
    """The ledger in ``folder``; ``limit`` and ``limit_alone``: the most epsilon to spend, None for no limit.

    Every method raises InputError where the ledger is not as this class wrote it.
    """

    folder: Path
    delta: float
    limit: float | None = None
    limit_alone: float | None = None

    def check(self, charge: Charge, ahead: int = 0) -> None:
        """Raise PolicyError where ``charge`` could not be paid now; writes nothing, promises nothing."""
        with self._locked():
            self._check_budget([_charge(record) for record in self._verified()[0]], charge, ahead)

    def charge(self, entry: Entry, ahead: int = 0) -> None:
        """Write a charge down for good; only when this has returned may the release leave.

        ``ahead``: how many equal charges the run may still ask for; it only saves time. Raises PolicyError, and writes
        nothing, where the budget would be exceeded.
        """
        with self._locked():
            records = self._repaired()
            charges = [_charge(record) for record in records]
            self._check_budget(charges, entry.charge, ahead)
            last = records[-1]["hash"] if records else _FIRST
            self._append(_record(entry, len(records) + 1, last))

    def entries(self) -> list[Entry]:
        """Read and verify all records, the oldest first."""
        with self._locked():
            return [_entry(record) for record in self._verified()[0]]

    def spent(self) -> Spent:
        """Add everything up; takes about a second."""
        charges = [entry.charge for entry in self.entries()]
        return Spent(
            epsilon=epsilon(profile(charges), self.delta),
            epsilon_alone=epsilon(profile(charges, alone=True), self.delta),
            delta=self.delta,
            entries=len(charges),
        )

    def _check_budget(self, charges: list[Charge], new: Charge, ahead: int) -> None:
        for limit, alone, key in ((self.limit, False, "max_epsilon"), (self.limit_alone, True, "max_epsilon_alone")):
            if limit is None:
                continue
            account = budget(limit, self.delta)
            if account.allows(profile([*charges, new, *[new] * ahead], alone=alone)):
                continue
            if not account.allows(profile([*charges, new], alone=alone)):
                raise PolicyError(f"{key}: this site's privacy budget is spent; it releases nothing more")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"{self.folder}: the privacy ledger cannot be used ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _verified(self) -> tuple[list[dict[str, Any]], int, int]:
        """All records, the length in bytes of the part of the file that holds them, and how many the head knows."""
        content = _read(self.folder / _RECORDS)
        # What stands behind the last line's end was being written when the process died: nothing had left for it.
        whole = content[: content.rfind(b"\n") + 1]
        records: list[dict[str, Any]] = []
        for line in whole.splitlines():
            before = records[-1]["hash"] if records else _FIRST
            records.append(self._checked(line, len(records) + 1, before))
        return records, len(whole), self._check_head(records)

    def _checked(self, line: bytes, number: int, before: str) -> dict[str, Any]:
        try:
            record: Any = json.loads(line)
            fitting = isinstance(record, dict) and canonical(record) == line
            if fitting:
                check_values("schema", "ledger", record, _RULES)
                body = {key: value for key, value in record.items() if key != "hash"}
                fitting = (record["number"], record["before"]) == (number, before) and record["hash"] == _hash(body)
        except (ValueError, RecursionError, InputError):
            fitting = False
        if not fitting:
            raise self._changed(f"record {number} is not as it was written")
        found: dict[str, Any] = record
        return found

    def _check_head(self, records: list[dict[str, Any]]) -> int:
        raw = _read(self.folder / _HEAD)
        try:
            head: dict[str, Any] = json.loads(raw) if raw else {"records": 0, "hash": _FIRST}
            count, digest = int(head["records"]), str(head["hash"])
        except (ValueError, KeyError, TypeError):
            raise self._changed("its head cannot be read") from None
        # One record more than the head says: the process died between the two.
        if len(records) - count not in (0, 1):
            raise self._changed(f"it holds {len(records)} records where {count} were written")
        if digest != (records[count - 1]["hash"] if count else _FIRST):
            raise self._changed("its head is of other records")
        return count

    def _changed(self, how: str) -> InputError:
        return InputError(
            f"{self.folder}: the privacy ledger was changed: {how}; this site releases nothing until it is restored"
        )

    def _repaired(self) -> list[dict[str, Any]]:
        """The verified records, after what a killed process left unfinished is finished or cut off."""
        records, length, known = self._verified()
        path = self.folder / _RECORDS
        if path.exists() and path.stat().st_size > length:
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.ftruncate(descriptor, length)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if known < len(records):
            self._write_head(records[-1])
        return records

    def _append(self, record: dict[str, Any]) -> None:
        path = self.folder / _RECORDS
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _write_all(descriptor, canonical(record) + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if record["number"] == 1:
                _sync_folder(self.folder)
            self._write_head(record)
        except OSError as error:
            raise InputError(f"{path}: the charge cannot be written ({error.strerror}); nothing was sent") from error

    def _write_head(self, record: Mapping[str, Any]) -> None:
        partial = self.folder / f"{_HEAD}.part"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(descriptor, canonical({"records": record["number"], "hash": record["hash"]}))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, self.folder / _HEAD)
        _sync_folder(self.folder)


def _record(entry: Entry, number: int, before: str) -> dict[str, Any]:
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


def _charge(record: Mapping[str, Any]) -> Charge:
    return Charge(z=record["z"], z_alone=record["z_alone"], q=record["q"], count=record["count"])


def _entry(record: Mapping[str, Any]) -> Entry:
    names = {"purpose": record["for"], "run_id": record["run"], "round": record["round"], "time": record["time"]}
    return Entry(**names, charge=_charge(record))


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(b"fedkt3d:ledger:v1\n" + canonical(body)).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path}: the privacy ledger cannot be read ({error.strerror})") from error


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
