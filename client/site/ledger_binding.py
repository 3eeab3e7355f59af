"""Ties a privacy ledger to the patients that it counts for: a mark in the data's folder names the ledger.

Budget is spent per patient, not per home. A second home over the same data, or a ledger made anew after the first one
was deleted, finds the mark: it names the ledger's id and folder. If the data's folder cannot be written to (an export
that is mounted read-only), the mark lies in the user's state folder instead, under the hash of the data's real path.
A copy of the data in another place is not recognised, nor is a mark that somebody deletes.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from privacy.dp.ledger import SiteLedger
from shared_model.core.errors import InputError
from shared_model.core.files import PUBLIC, StorageError, write_json

MARK = ".fedkt3d-ledger.json"


@dataclass(frozen=True, kw_only=True)
class BoundLedger:
    """What a mark says: the ledger's ``id`` and the ``folder`` in which it lay when it was bound."""

    id: str
    folder: Path


def bound_ledger(root: Path) -> BoundLedger | None:
    """Return the ledger that counts for the patients in ``root``; None if none does. InputError for a damaged mark."""
    for path in (root / MARK, _elsewhere(root)):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return BoundLedger(id=str(found["ledger"]), folder=Path(str(found["folder"])))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Without the data's path: `client start` prints this, and a service's screen is a log.
            raise InputError(
                f"{path.name} (in the data's folder, or in ~/.local/state/fedkt3d/ledgers): cannot be read; it names"
                " the privacy ledger of these patients"
            ) from error
    return None


def bind(root: Path, ledger: SiteLedger) -> None:
    """Bind ``ledger`` to the patients in ``root``; as ``is_bound``. Bound already, it changes nothing."""
    if is_bound(root, ledger):
        return
    record = {"ledger": ledger.id, "folder": str(ledger.folder.resolve())}
    try:
        write_json(root / MARK, record, mode=PUBLIC)
    except StorageError:
        write_json(_elsewhere(root), record, mode=PUBLIC)


def is_bound(root: Path, ledger: SiteLedger) -> bool:
    """Whether ``ledger`` counts for the patients in ``root``; False if none does yet.

    InputError when another ledger counts for them, naming its folder.
    """
    known = bound_ledger(root)
    if known is not None and known.id != ledger.id:
        raise InputError(
            f"{ledger.folder}: the patients of this site are counted in another privacy ledger, which lay in"
            f" {known.folder}; name that folder as `ledger` in policy.yaml, or restore it"
        )
    return known is not None


def _elsewhere(root: Path) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "fedkt3d" / "ledgers" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()}.json"
