"""A site's privacy ledger: all that the site has spent, over every run, stage and coordinator. Nobody can overdraw it.

``ledger.jsonl`` holds one record per charge, each with the hash of the record before it. ``head.json`` holds the
ledger's id, the number of records and the last record's hash. ``shown.json`` holds what the site last showed its peers
of it (``show``). A charge is on the disk (fsync) BEFORE its release leaves the site. So a process that is killed in
between has paid for a release that never left, never the other way round. Reading the ledger finds records that were
edited, cut off or reordered, and files that are missing, unless the head was changed to fit. The site then releases
nothing, and neither does one without a ledger (its disk may not be mounted): only ``create`` makes one.

By itself the ledger cannot detect a whole folder restored from an older copy, nor records and head rewritten by someone
with write access, because the hashes have no key. The site's peers detect the first (privacy/secagg/heads.py).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.dp.accountant import Charge, adaptive_epsilon, budget, profile
from privacy.dp.ledger_files import linked, read, write_all
from privacy.dp.ledger_record import (
    FIRST,
    SHOWINGS,
    LedgerEntry,
    Shown,
    charge_of,
    entry_of,
    read_record,
    read_shown,
    record_of,
)
from privacy.trust.signed import canonical
from shared_model.core.errors import InputError, PolicyError
from shared_model.core.files import sync_folder

_RECORDS, _HEAD, _LOCK, _SHOWN = "ledger.jsonl", "head.json", "lock", "shown.json"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What all charges cost together: epsilon against at most t colluders, and against all others together."""

    epsilon: float
    epsilon_alone: float
    delta: float
    entries: int


@dataclass(frozen=True, kw_only=True)
class SiteLedger:
    """The ledger in ``folder``. ``limit`` and ``limit_alone``: the most epsilon to spend, None for no limit.

    Every method raises InputError when there is no ledger, or when the ledger is not as this class wrote it.
    """

    folder: Path
    delta: float
    limit: float | None = None
    limit_alone: float | None = None

    @property
    def made(self) -> bool:
        """Whether there is a ledger in the folder."""
        return (self.folder / _LOCK).is_file()

    def create(self) -> None:
        """Make a ledger with nothing spent and an id of its own. An existing ledger stays as it is.

        The lock comes last: until it is there, there is no ledger, and a call that was killed can be repeated. Raises
        InputError when the folder holds parts of a ledger.
        """
        if self.made:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (self.folder / _RECORDS).exists():
                raise self._change_error("its lock is missing")
            with suppress(FileExistsError), linked(self.folder / _HEAD) as descriptor:  # of two calls the first wins
                write_all(descriptor, canonical(_head([], os.urandom(16).hex())))
                os.fsync(descriptor)
            os.close(os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600))
            sync_folder(self.folder)
        except OSError as error:
            raise InputError(f"{self.folder}: the privacy ledger cannot be made ({error.strerror})") from error

    @property
    def id(self) -> str:
        """The ledger's id, 32 hex digits, made with it."""
        with self._hold_lock():
            return self._read_head()[0]

    def give_id(self, keep: Callable[[Path], None]) -> bool:
        """Give an id to a ledger of a version that had none; its charges stay. Returns whether it had none.

        ``keep`` gets the head before it changes. Raises InputError where the records are not as they were written.
        """
        with self._hold_lock():
            path, records = self.folder / _HEAD, self._read_chain()[0]
            raw = read(path)
            if b'"id"' in raw or (records and not raw):
                return False  # where something is wrong, reading the ledger says what
            try:
                before = json.loads(raw) if raw else _head([], "")  # those versions wrote it with the first charge
                count, digest = int(before["records"]), str(before["hash"])
            except (ValueError, KeyError, TypeError):
                raise self._change_error("its head cannot be read") from None
            self._check_end(records, count, digest)
            if raw:
                keep(path)
            self._replace(path, {"id": os.urandom(16).hex(), "records": count, "hash": digest})
            return True

    def show(self) -> Shown:
        """Return what the site shows its peers of this ledger now, with a number that grows; durable on return."""
        with self._hold_lock():
            records = self._repair()
            path = self.folder / _SHOWN
            number, before = read_shown(read(path)) if path.exists() else (0, (FIRST,))
            shown = Shown(
                number=number + 1,
                records=len(records),
                head=records[-1]["hash"] if records else FIRST,
                mark=os.urandom(16).hex(),
                before=before,
            )
            self._replace(path, {"number": shown.number, "hashes": [shown.hash, *before][:SHOWINGS]})
            return shown

    def check(self, charge: Charge, ahead: int = 0) -> None:
        """Raise PolicyError when the budget does not allow ``charge`` now. Writes and promises nothing."""
        with self._hold_lock():
            self._check_budget([charge_of(record) for record in self._verify()[0]], charge, ahead)

    def charge(self, entry: LedgerEntry, ahead: int = 0) -> None:
        """Record a charge for good. The release may leave only after this has returned.

        ``ahead``: how many equal charges the run may still ask for; it only saves time. Raises PolicyError, and writes
        nothing, when the charge would exceed the budget.
        """
        with self._hold_lock():
            records = self._repair()
            charges = [charge_of(record) for record in records]
            self._check_budget(charges, entry.charge, ahead)
            last = records[-1]["hash"] if records else FIRST
            self._append([*records, record_of(entry, len(records) + 1, last)])

    def entries(self) -> list[LedgerEntry]:
        """Read and verify all records, oldest first."""
        with self._hold_lock():
            return [entry_of(record) for record in self._verify()[0]]

    def hashes(self) -> list[str]:
        """Return the hashes of all records, oldest first, after FIRST, which every ledger has."""
        with self._hold_lock():
            return [FIRST, *(str(record["hash"]) for record in self._verify()[0])]

    def spent(self) -> Spent:
        """Return what all charges cost together; takes about a second."""
        charges = [entry.charge for entry in self.entries()]
        return Spent(
            epsilon=adaptive_epsilon(profile(charges), self.delta),
            epsilon_alone=adaptive_epsilon(profile(charges, alone=True), self.delta),
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
    def _hold_lock(self) -> Iterator[None]:
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            raise InputError(
                f"{self.folder}: no privacy ledger is here; see whether its disk is mounted and `ledger` in policy.yaml"
                " is right. `client budget --make-ledger` makes a new one, with nothing spent"
            ) from None
        except OSError as error:
            raise InputError(f"{self.folder}: the privacy ledger cannot be used ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _verify(self) -> tuple[list[dict[str, Any]], int, int]:
        """Return all records, the length in bytes of the file's part that holds them, and the head's record count."""
        records, length = self._read_chain()
        return records, length, self._check_head(records)

    def _read_chain(self) -> tuple[list[dict[str, Any]], int]:
        content = read(self.folder / _RECORDS)
        # The process died while it wrote what follows the last whole line: no release had left for it.
        whole = content[: content.rfind(b"\n") + 1]
        records: list[dict[str, Any]] = []
        for line in whole.splitlines():
            before = records[-1]["hash"] if records else FIRST
            record = read_record(line, len(records) + 1, before)
            if record is None:
                raise self._change_error(f"record {len(records) + 1} is not as it was written")
            records.append(record)
        return records, len(whole)

    def _read_head(self) -> tuple[str, int, str]:
        """Return id, number of records and last hash that the head names."""
        raw = read(self.folder / _HEAD)
        if not raw:
            raise self._change_error("its head is missing")
        try:
            head: dict[str, Any] = json.loads(raw)
            return str(head["id"]), int(head["records"]), str(head["hash"])
        except (ValueError, KeyError, TypeError):
            raise self._change_error("its head cannot be read") from None

    def _check_head(self, records: list[dict[str, Any]]) -> int:
        _, count, digest = self._read_head()
        self._check_end(records, count, digest)
        return count

    def _check_end(self, records: list[dict[str, Any]], count: int, digest: str) -> None:
        # One record more than the head says: the process died between writing the record and the head.
        if len(records) - count not in (0, 1):
            raise self._change_error(f"it holds {len(records)} records where {count} were written")
        if digest != (records[count - 1]["hash"] if count else FIRST):
            raise self._change_error("its head is of other records")

    def _change_error(self, how: str) -> InputError:
        return InputError(
            f"{self.folder}: the privacy ledger was changed: {how}; this site releases nothing until it is restored"
        )

    def _repair(self) -> list[dict[str, Any]]:
        """Finish or cut off what a killed process left unfinished; return the verified records."""
        records, length, known = self._verify()
        path = self.folder / _RECORDS
        if path.exists() and path.stat().st_size > length:
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.ftruncate(descriptor, length)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if known < len(records):  # also before the first record: a killed charge never leaves a record without a head
            self._write_head(records)
        return records

    def _append(self, records: list[dict[str, Any]]) -> None:
        """Append the last of ``records`` to the file, then write the head."""
        path = self.folder / _RECORDS
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                write_all(descriptor, canonical(records[-1]) + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if len(records) == 1:
                sync_folder(self.folder)
            self._write_head(records)
        except OSError as error:
            raise InputError(f"{path}: the charge cannot be written ({error.strerror}); nothing was sent") from error

    def _write_head(self, records: list[dict[str, Any]]) -> None:
        # Own code, not shared_model/core/files.py: the head belongs to an append-only file under one lock. Its partial
        # has a fixed name that the next charge writes over, and an OSError must reach `_append`: then nothing is sent.
        self._replace(self.folder / _HEAD, _head(records, self._read_head()[0]))

    def _replace(self, path: Path, content: Mapping[str, Any]) -> None:
        partial = path.with_name(f"{path.name}.part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, canonical(content))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
        sync_folder(self.folder)


def _head(records: Sequence[Mapping[str, Any]], identifier: str) -> dict[str, Any]:
    return {"id": identifier, "records": len(records), "hash": records[-1]["hash"] if records else FIRST}
