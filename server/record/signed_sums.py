"""What was signed for each masked sum of a run: ``OUT/signed/ROUND-ATTEMPT.json``, written before the sum is used.

A site that is accused of having spoilt a sum can be judged only by what all sites signed for that very sum: keys,
hashes of masked vectors, commitments (privacy/secagg/audit.py). No secret, vector or count is in these files; each site
of the sum was sent the keys anyway, and commitments hide what they are to. `server dispute` hands one out.
"""

from __future__ import annotations

import json
from pathlib import Path

from privacy.secagg.audit import SumRecord
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

_FOLDER = "signed"


def keep_record(out: Path, run_id: str, attempt: int, record: SumRecord) -> None:
    """Write the record of one sum durably; StorageError when the disk is full."""
    path = out / _FOLDER / f"{record.round:08d}-{attempt:03d}.json"
    write_text(path, json.dumps({**record.to_plain(), "run": run_id, "attempt": attempt}), mode=ORDINARY)


def record_files(out: Path, number: int) -> list[Path]:
    """Return the files of a round's records, the last attempt last; InputError where there is none."""
    found = sorted((out / _FOLDER).glob(f"{number:08d}-*.json"))
    if not found:
        raise InputError(
            f"{out / _FOLDER}: nothing signed for round {number}; modes with masks have it, for each sum that was made"
        )
    return found
