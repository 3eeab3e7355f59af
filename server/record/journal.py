"""Checkpoints that survive kill -9 at any instant, and the lock of an output folder.

A checkpoint is one file: magic, length of the header, header (JSON), the arrays' raw little-endian bytes, SHA-256 of
all that. A reader sees the old file or the new one, never half of one (shared_model/core/files.py). The last two
checkpoints are kept. If the newest is damaged, the run goes back one step and says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.flower.processes import is_running
from server.record.history import Drop, RoundRecord
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, PARTIAL, write_bytes

_MAGIC = b"FKT3D-CHECKPOINT-1\n"
_LENGTH = struct.Struct("<Q")
KEEP = 2  # checkpoints


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that a run needs to go on. ``vector`` (d,) float32; ``optimizer`` named (d,) float64 arrays.

    ``identity`` (server/config/run.py) is the hash of what determines the result; ``round`` counts finished rounds.
    ``sites`` (patients by name) and ``drops`` (nodes that never became a site) are only for the report.
    """

    run_id: str
    identity: str
    round: int
    vector: NDArray[np.float32]
    optimizer: Mapping[str, NDArray[np.float64]]
    history: tuple[RoundRecord, ...] = ()
    sites: Mapping[str, int] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()


class Journal:
    """The folder ``out`` of one run: lock, checkpoints, notices. A context manager: the lock is held inside."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "checkpoint"
        self._out = out
        self._lock: int | None = None
        self._next = 1

    def __enter__(self) -> Journal:
        """Take the folder; raises InputError where another run holds it or it cannot be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The lock is advisory, bound to this open file: it goes when the process does, however that ends.
            self._lock = os.open(self._out / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(
                f"{self._out}: cannot be used as an output folder ({error.strerror}); choose another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.__exit__()
            raise InputError(f"{self._out}: another run is using this folder; wait for it or choose another") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self, identity: str) -> tuple[RunState | None, list[str]]:
        """Return the newest whole checkpoint of this run, or None for a fresh folder, and notices about damaged files.

        Raises InputError when the checkpoint belongs to another configuration, or every checkpoint is damaged. In
        neither case is anything overwritten.
        """
        notices: list[str] = []
        files = self._files()
        self._next = _sequence(files[-1]) + 1 if files else 1
        damaged: list[Path] = []
        for path in reversed(files):
            try:
                state = _decode(path.read_bytes())
            except (OSError, ValueError, KeyError, TypeError, struct.error):
                notices.append(f"checkpoint {path.name} is damaged; going back to the one before it")
                damaged.append(path)
                continue
            if state.identity != identity:
                raise InputError(
                    f"{self._out}: holds a run of another configuration or model; choose another output folder"
                    " (nothing was written over)"
                )
            for bad in damaged:  # out of the way, so that the whole one before it is not the next to be deleted
                bad.rename(bad.with_suffix(".damaged"))
            return state, notices
        if files:
            raise InputError(f"{self._folder}: every checkpoint is damaged; move the folder away to start anew")
        return None, notices

    def save(self, state: RunState) -> None:
        """Write the next checkpoint durably, then delete all but the last two."""
        path = self._folder / f"{self._next:08d}.ckpt"
        write_bytes(path, *_encode(state), mode=ORDINARY)
        self._next += 1
        for old in self._files()[:-KEEP]:
            old.unlink()
        for left_over in self._folder.glob(f".*{PARTIAL}"):  # of a writer that was killed; we hold the lock
            left_over.unlink()

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.ckpt") if path.stem.isdigit())


def newest_state(out: Path) -> RunState:
    """Return the newest whole checkpoint in a run's folder, whatever its configuration; InputError without one."""
    for path in sorted((out / "checkpoint").glob("*.ckpt"), reverse=True):
        try:
            return _decode(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            continue
    raise InputError(f"{out}: no whole checkpoint of a run")


def in_use(out: Path) -> bool:
    """Whether a run holds the output folder; the lock goes with its process, however that ends."""
    return is_running(out / "run.lock")


def _sequence(path: Path) -> int:
    return int(path.stem)


def _encode(state: RunState) -> list[bytes]:
    arrays: dict[str, NDArray[Any]] = {"vector": state.vector.astype("<f4", copy=False)}
    arrays.update({f"optimizer.{name}": array.astype("<f8", copy=False) for name, array in state.optimizer.items()})
    header = {
        "run_id": state.run_id,
        "identity": state.identity,
        "round": state.round,
        "history": [record.to_plain() for record in state.history],
        "sites": dict(state.sites),
        "drops": [asdict(drop) for drop in state.drops],
        "arrays": {name: [array.dtype.str, array.size] for name, array in arrays.items()},
    }
    text = json.dumps(header, allow_nan=False).encode()
    parts = [_MAGIC, _LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays.values())]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return [*parts, digest.digest()]


def _decode(data: bytes) -> RunState:
    """Read a checkpoint; raises ValueError, KeyError, TypeError or struct.error where it is damaged."""
    body, digest = data[:-32], data[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise ValueError("damaged checkpoint")
    start = len(_MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack_from(body, len(_MAGIC))
    header = json.loads(body[start : start + length])
    arrays, offset = {}, start + length
    for name, (dtype, size) in header["arrays"].items():
        arrays[name] = np.frombuffer(body, dtype=dtype, count=size, offset=offset)
        offset += arrays[name].nbytes
    prefix = "optimizer."
    return RunState(
        run_id=header["run_id"],
        identity=header["identity"],
        round=header["round"],
        vector=arrays["vector"].astype(np.float32),
        optimizer={n.removeprefix(prefix): a.astype(np.float64) for n, a in arrays.items() if n.startswith(prefix)},
        history=tuple(RoundRecord.from_plain(record) for record in header["history"]),
        # Absent from the first checkpoints of this format.
        sites=header.get("sites", {}),
        drops=tuple(Drop(**drop) for drop in header.get("drops", [])),
    )
