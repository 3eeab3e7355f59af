"""`client track`: the curves of a site's own alignment for TensorBoard or MLflow, at the site alone.

A process of its own that reads ``curves.csv``, which an alignment writes after each epoch, so that a tracking server
that hangs never touches an alignment. Scores of held-back patients are means; nothing of a patient is written.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

from client.site.home import ClientHome
from shared_model.core.curve_stores import Curves
from shared_model.core.errors import FedKT3DError, InputError

CURVES, RECORD = "curves.csv", "align.json"
POLL_S = 1.0


def newest_alignment(home: ClientHome) -> Path:
    """The folder of the home's newest alignment. InputError where there is none."""
    found = sorted(home.private_adapters.glob(f"*/{CURVES}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{home.folder}: no alignment yet; `client adopt` with a scorecard makes one")
    return found[-1].parent


def track_alignment(
    out: Path, curves: Curves, *, live: bool = True, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Write the curves of the alignment in ``out``; with ``live`` until it has ended or ``stopped``.

    Returns the last epoch written. InputError if ``out`` holds no alignment.
    """
    path = out / CURVES
    if not path.is_file():
        raise InputError(f"{out}: no {CURVES}; expected the folder of an alignment")
    last, over = -1, False
    try:
        while True:
            over = _ended(out)  # asked before the rows: what an alignment wrote last is read once more
            for epoch, values in _rows(path):
                if epoch > last:
                    curves.add(epoch, path.stat().st_mtime, values)
                    last = epoch
            if over or not live or stopped():
                return max(last, 0)
            time.sleep(POLL_S)
    except Exception as error:  # of a store, whose text may hold a password, or a file that is no table
        raise FedKT3DError(f"{path}: cannot be tracked ({type(error).__name__})") from error
    finally:
        curves.close(over)


def _ended(out: Path) -> bool:
    """Whether the record, which is written last, is as new as the curves."""
    record = out / RECORD
    return record.is_file() and record.stat().st_mtime >= (out / CURVES).stat().st_mtime


def _rows(path: Path) -> list[tuple[int, dict[str, float]]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (
                round(float(row["epoch"])),
                {f"align/{name}": float(value) for name, value in row.items() if name != "epoch" and value},
            )
            for row in csv.DictReader(file)
        ]
