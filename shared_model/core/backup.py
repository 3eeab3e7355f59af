"""Backups of a node's folder: one archive, consistent while the node runs, without private keys unless asked.

The archive is a tar file. Its first member, ``backup.json``, names the kind of folder, who it belongs to, and each
file's size, mode and SHA-256. Files are whole at any time (core/files.py), but belong together: so they are copied, and
those that changed meanwhile are copied again, until none does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shared_model.core.errors import InputError
from shared_model.core.files import PARTIAL, PRIVATE, StorageError, sync_folder, whole_file
from shared_model.core.software import versions

SCHEMA: Final = 1
INDEX: Final = "backup.json"
_PASSES, _PAUSE_S = 30, 0.2
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class BackupRules:
    """What belongs into a backup. ``kind``: site or coordinator.

    Both functions get a file's path in the folder, with slashes. ``left_out``: what is made anew, and what describes
    processes. ``secret``: what is written only if it is asked for.
    """

    kind: str
    left_out: Callable[[str], bool]
    secret: Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class BackupIndex:
    """What an archive says of itself. ``files``: path -> its size, mode and sha256; ``without``: secrets left out."""

    kind: str
    owner: str
    created: str
    software: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    without: tuple[str, ...]


def save_backup(folder: Path, archive: Path, rules: BackupRules, owner: str, *, secrets: bool = False) -> BackupIndex:
    """Write the files of ``folder`` to the new file ``archive`` (0600); ``owner``: the site's or consortium's name.

    InputError when the archive exists or lies in the folder, or when files never rest; StorageError on a full disk.
    """
    if archive.exists():
        raise InputError(f"{archive}: exists already; a backup is never overwritten")
    if archive.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{archive}: lies in the folder that is backed up; choose a place on another disk")
    named = [name for name in _names(folder) if not rules.left_out(name)]
    without = tuple(name for name in named if rules.secret(name) and not secrets)
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".backup-") as held:
            copies = Path(held)
            _copy_at_rest(folder, copies, lambda name: not rules.left_out(name) and (secrets or not rules.secret(name)))
            files = {name: _described(copies / name) for name in _names(copies)}
            index = BackupIndex(
                kind=rules.kind,
                owner=owner,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                software=versions(),
                files=files,
                without=without,
            )
            with whole_file(archive, PRIVATE) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
                _add(tar, INDEX, json.dumps({"schema": SCHEMA, **index.__dict__}, indent=1).encode())
                for name in files:
                    tar.add(copies / name, arcname=f"files/{name}", filter=_nameless)
    except OSError as error:
        raise StorageError(archive, error) from error
    return index


def read_index(archive: Path, kind: str) -> BackupIndex:
    """What the archive holds; InputError if it is no backup of that ``kind``."""
    try:
        with tarfile.open(archive) as tar:
            first = tar.next()
            stream = tar.extractfile(first) if first is not None and first.name == INDEX else None
            record = json.loads(stream.read()) if stream is not None else {}
            if record.pop("schema", None) != SCHEMA:
                raise InputError(f"{archive}: expected a backup with schema {SCHEMA}, as `backup` writes it")
            found = BackupIndex(**{**record, "without": tuple(record["without"])})
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror or 'not a tar file'})") from error
    except (tarfile.TarError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{archive}: is damaged or no backup ({type(error).__name__})") from error
    if found.kind != kind:
        raise InputError(f"{archive}: is the backup of a {found.kind}; expected that of a {kind}")
    return found


def restore_backup(archive: Path, folder: Path, index: BackupIndex, check: Callable[[Path], None]) -> None:
    """Write the archive's files to the new ``folder``, each with its hash checked, all of them or none.

    ``check`` sees the files in a folder beside the new one, and raises InputError where they must not be restored.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; choose a new folder (nothing was changed)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-", suffix=PARTIAL))
        try:
            _extract(archive, made, index)
            check(made)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageError(folder, error) from error


def _extract(archive: Path, folder: Path, index: BackupIndex) -> None:
    missing = dict(index.files)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.removeprefix("files/")
                described = missing.pop(name, None) if member.name.startswith("files/") and member.isreg() else None
                stream = tar.extractfile(member) if described is not None else None
                if stream is None or described is None:
                    if member.name == INDEX:
                        continue
                    raise InputError(f"{archive}: holds {member.name!r}, which its index does not name")
                target = folder / name
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise InputError(f"{archive}: names a file outside of the folder")
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with whole_file(target, int(described["mode"]) & 0o777) as out:
                    shutil.copyfileobj(stream, out)
                if _described(target)["sha256"] != described["sha256"]:
                    raise InputError(f"{archive}: {name} is not what was backed up; take another copy of the backup")
    except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{archive}: is damaged ({type(error).__name__})") from error
    if missing:
        raise InputError(f"{archive}: is cut short: {len(missing)} of {len(index.files)} files are missing")


def _copy_at_rest(folder: Path, copies: Path, wanted: Callable[[str], bool]) -> None:
    """Copy until a whole pass finds every file as the pass before left it."""
    copied: dict[str, _Stamp] = {}
    for _ in range(_PASSES):
        now = {name: stamp for name in _names(folder) if wanted(name) and (stamp := _stamp(folder / name)) is not None}
        if now == copied:
            return
        for name in copied.keys() - now.keys():
            (copies / name).unlink()
        for name, stamp in now.items():
            if copied.get(name) != stamp:
                (copies / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.copy2(folder / name, copies / name)
                except FileNotFoundError:  # replaced or gone since; the next pass sees it
                    now = {**now, name: (0, 0, 0)}
                    (copies / name).touch()
        copied = now
        time.sleep(_PAUSE_S)
    raise InputError(f"{folder}: its files change all the time; stop the node for the backup, or try again later")


def _names(folder: Path) -> Iterator[str]:
    """Paths of the regular files below ``folder``, in order; those that are being written and links are no files."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if not name.endswith(PARTIAL) and not path.is_symlink() and path.is_file():
                yield path.relative_to(folder).as_posix()


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"size": path.stat().st_size, "mode": path.stat().st_mode & 0o777, "sha256": digest}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(time.time())
    tar.addfile(member, io.BytesIO(content))


def _nameless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member that names no user of this machine."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
