"""Bring a node's folder from an earlier version's layout to this version's, and keep a copy of each file that changes.

The folder's main record (`client.json`, `server.json`) says in its key ``schema`` which layout the folder has. Each
earlier layout has one step to the next. A step hands each file to ``keep`` before it changes it; ``keep`` copies the
file into `before_schema_N` in the folder. The main record is written last. So a migration that was killed begins again
where it was: a step leaves alone what is done already, and the first copy of a file stays.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared_model.core.errors import InputError
from shared_model.core.files import StorageError, create_file, whole_file

Keep = Callable[[Path], None]
# Changes a folder by one schema; returns what it did, a line each.
Step = Callable[[Path, Keep], list[str]]


def check_schema(record: Path, found: object, newest: int, oldest: int, upgrade: str) -> None:
    """Raise InputError unless ``found`` is ``newest``. ``upgrade``: the command that migrates from ``oldest`` on."""
    if type(found) is not int or found < oldest:
        raise InputError(f"{record}: key schema: expected {newest}, found {found!r}")
    if found > newest:
        raise InputError(
            f"{record}: key schema: {found} is of a newer version of this software, and this one reads {newest};"
            " use the newer version, or restore a backup from before the upgrade"
        )
    if found < newest:
        raise InputError(
            f"{record}: key schema: {found} is of an earlier version; `{upgrade}` brings the folder to schema {newest}"
            " and keeps a copy of each file that it changes"
        )


def migrate(record: Path, newest: int, steps: Mapping[int, Step]) -> list[str]:
    """Bring the folder of ``record`` to schema ``newest``; returns what was done, nothing if it had that schema.

    The caller sees to it that no process works in the folder. A folder that no step begins with stays as it is:
    reading it says what is wrong. Raises InputError where a step cannot read the older files.
    """
    content = _read(record)
    done: list[str] = []
    while content.get("schema") in steps and content["schema"] != newest:
        schema = int(content["schema"])
        kept = record.parent / f"before_schema_{schema + 1}"
        keep = _keeper(record.parent, kept)
        done += steps[schema](record.parent, keep)
        keep(record)
        content["schema"] = schema + 1
        with whole_file(record, _mode(record)) as stream:
            stream.write((json.dumps(content, indent=1) + "\n").encode())
        done.append(f"{record.name}: schema {schema + 1}; the files as they were are in {kept}")
    return done


def _read(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _keeper(folder: Path, kept: Path) -> Keep:
    def keep(path: Path) -> None:
        """Copy a file, unless an earlier attempt has."""
        inside = path.is_relative_to(folder)
        target = kept / (path.relative_to(folder) if inside else Path("elsewhere", *path.parts[1:]))
        if target.exists():
            return
        try:
            kept.mkdir(mode=0o700, exist_ok=True)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_file(target, path.read_bytes(), _mode(path))
            shutil.copystat(path, target)
        except OSError as error:
            raise StorageError(target, error) from error

    return keep


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
