"""Curves of the site's own alignments (`client adopt` with a scorecard), from what they write after each epoch.

Files of ``private/`` in the home: no message can carry them, and the page that shows them is on this machine alone.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.site.home import ClientHome
from privacy.pages.curves import Curve

# Column of curves.csv -> what a person reads. The scores are of held-back patients.
CURVES = {
    "score": "score of held-back patients, points of 100",
    "mae_ref5_gy": "error of held-back patients, Gy",
    "reward": "reward of the candidates",
    "loss": "training loss",
}
_MOST = 5
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class OwnAlignment:
    """One alignment: the shared adapter it starts from (its hash), the scorecard, the curves, and what was kept.

    ``card`` and ``best_epoch`` are known when it has ended; until then ``done`` is false.
    """

    name: str
    curves: dict[str, Curve]
    epochs: int
    done: bool
    card: str
    best_epoch: int


def alignment_files(home: ClientHome) -> list[Path]:
    """Return the files that the curves are read from."""
    return [path for name in ("curves.csv", "align.json") for path in sorted(home.private_adapters.glob(f"*/{name}"))]


def own_alignments(home: ClientHome) -> list[OwnAlignment]:
    """Return the newest alignments, newest first. A file that cannot be read gives no curve."""
    try:
        found = [(path.stat(), path) for path in home.private_adapters.glob("*/curves.csv")]
    except OSError:  # an alignment moves its folder aside at this moment
        return []
    newest = sorted(found, key=lambda pair: pair[0].st_mtime, reverse=True)
    return [_read(path) for stat, path in newest if stat.st_size <= _MOST_BYTES][:_MOST]


def _read(path: Path) -> OwnAlignment:
    curves, epochs = {name: Curve() for name in CURVES.values()}, 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                epochs = max(epochs, _point(row, curves))
    except (OSError, ValueError, csv.Error):
        curves = {}
    record = _record(path.with_name("align.json"))
    # An alignment that goes on with more epochs leaves the record of its earlier end.
    done = isinstance(record.get("history"), list) and len(record["history"]) > epochs
    card, best = record.get("card"), record.get("best_epoch")
    return OwnAlignment(
        name=path.parent.name,
        curves={name: curve for name, curve in curves.items() if curve.numbers},
        epochs=epochs,
        done=done,
        card=f"{card.get('name', '')} {card.get('version', '')}" if isinstance(card, dict) else "",
        best_epoch=best if isinstance(best, int) else 0,
    )


def _point(row: dict[str, Any], curves: dict[str, Curve]) -> int:
    """Add one line's values to the curves; return its epoch, 0 for a line that is none."""
    try:
        epoch = round(float(row["epoch"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0
    for column, name in CURVES.items():
        try:
            curves[name].add(epoch, float(row[column]))
        except (KeyError, TypeError, ValueError):  # the start has no reward and no loss
            continue
    return epoch


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
