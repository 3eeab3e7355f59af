"""`server backup` and `server restore`: a coordinator's folder in one file, and a new folder from it.

Sites know the last round that they paid for. So runs of a folder that is restored from an older backup do not go on at
the sites' cost: they refuse, and say so (docs/operations.md). The SuperLink's own database is left out: `server start`
makes it again from sites.json.
"""

from __future__ import annotations

from pathlib import Path

from privacy.trust import identity
from server.deployment.home import FOLDERS, ServerHome
from shared_model.core.backup import BackupIndex, BackupRules, read_index, restore_backup, save_backup
from shared_model.core.files import PRIVATE, create_file

_NEEDED = ("ca/roster.key", "tls/server.key")
_MADE_ANEW = ("secrets/superexec", "secrets/control")


def _is_left_out(name: str) -> bool:
    return name.startswith(("flwr/", "logs/", "app/", "state/superlink.db", "state/start.", "state/tasks/")) or (
        name.endswith((".beat", ".lock"))
    )


def _is_secret(name: str) -> bool:
    return name.startswith("secrets/") or name.endswith(".key")


RULES = BackupRules(kind="coordinator", left_out=_is_left_out, secret=_is_secret)


def _check(made: Path) -> None:
    ServerHome.load(made)


def back_up_coordinator(home: ServerHome, archive: Path, *, secrets: bool = False) -> BackupIndex:
    """Write the coordinator's folder to ``archive``; with ``secrets`` also its private keys."""
    return save_backup(home.folder, archive, RULES, home.name, secrets=secrets)


def restore_coordinator(archive: Path, folder: Path) -> list[str]:
    """Make the new ``folder`` of a coordinator from a backup; returns the private keys that must be put back."""
    index = read_index(archive, RULES.kind)
    restore_backup(archive, folder, index, _check)
    home = ServerHome.load(folder)
    for name in FOLDERS:
        (home.folder / name).mkdir(parents=True, mode=0o700, exist_ok=True)
    for name in _MADE_ANEW:
        if not (home.folder / name).exists():
            create_file(home.folder / name, identity.new_secret(), PRIVATE)
    home.write_connection()
    lost = {name for name in index.without if name not in _MADE_ANEW}
    return sorted(lost | {name for name in _NEEDED if not (home.folder / name).exists()})
