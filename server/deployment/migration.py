"""A coordinator's folder of an earlier version becomes one of this version: `server upgrade` and `server start`.

From schema 2 (November 2026, before the public log) to 3: `state/runs.json` names runs by their path in the folder. An
absolute path led to the folder's old place once it was moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from privacy.flower.processes import read_state, sole_instance
from server.deployment.home import RECORD, SCHEMA
from shared_model.core.files import ORDINARY, write_text
from shared_model.core.migration import Keep, Step, migrate


def upgrade_coordinator(folder: Path) -> list[str]:
    """Bring a coordinator's folder to this version's layout; returns what was done, a line each.

    InputError while `server start` of any version runs for it, or where its files cannot be read.
    """
    record = folder.resolve() / RECORD
    lock = record.parent / "state" / "start.lock"
    if not record.is_file() or not lock.parent.is_dir():
        return []
    with sole_instance(lock, "the coordinator"):
        return migrate(record, SCHEMA, STEPS)


def _from_2(folder: Path, keep: Keep) -> list[str]:
    path = folder / "state" / "runs.json"
    index = read_state(path)
    moved = 0
    for entry in index.values():
        # Also where the folder was moved since: a run without --out lies in runs/NAME.
        for place in (Path(entry["out"]), folder / "runs" / Path(entry["out"]).name):
            if Path(entry["out"]).is_absolute() and place.is_relative_to(folder) and place.is_dir():
                entry["out"] = str(place.relative_to(folder))
                moved += 1
    if not moved:
        return []
    keep(path)
    write_text(path, json.dumps(index, indent=1), mode=ORDINARY)
    return [f"state/runs.json: {moved} runs are named by their place in the folder"]


STEPS: Mapping[int, Step] = {2: _from_2}
