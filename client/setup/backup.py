"""`client backup` and `client restore`: a site's folder in one file, and a new folder from it.

The ledger is in the backup where it lies in the folder. Budget is spent for good: so a folder is never restored with a
ledger that is older than one that this machine still has, and the other sites refuse one that they have seen newer
(privacy/secagg/heads.py).
"""

from __future__ import annotations

from pathlib import Path

from client.site.config import SiteConfig
from client.site.home import FOLDERS, ClientHome
from client.site.ledger_binding import bound_ledger
from client.site.policy import Policy
from privacy.dp.ledger import SiteLedger
from privacy.trust import identity
from shared_model.core.backup import BackupIndex, BackupRules, read_index, restore_backup, save_backup
from shared_model.core.errors import InputError
from shared_model.core.files import PRIVATE, create_file

# What describes processes that run, and this copy of the folder (client/site/instance.py).
_OF_NOW = {f"state/{name}.json" for name in ("start", "executor", "supernode", "instance")}
# What a site cannot do without, and cannot make again.
_NEEDED = ("keys/identity", "keys/node")
_OWN_SECRET = "secrets/superexec"


def _is_left_out(name: str) -> bool:
    return name in _OF_NOW or name.startswith(("flwr/", "logs/", "state/plans/")) or name.endswith((".beat", ".lock"))


def _is_secret(name: str) -> bool:
    return name.startswith(("keys/", "secrets/"))


RULES = BackupRules(kind="site", left_out=_is_left_out, secret=_is_secret)


def back_up_site(home: ClientHome, archive: Path, *, secrets: bool = False) -> BackupIndex:
    """Write the site's folder to ``archive``; with ``secrets`` also its private keys and the salt of pseudonyms."""
    return save_backup(home.folder, archive, RULES, home.site, secrets=secrets)


def restore_site(archive: Path, folder: Path, ledger: Path | None = None) -> list[str]:
    """Make the new ``folder`` of a site from a backup; returns the paths of secrets that must be put back.

    ``ledger``: folder of a newer copy of the backup's ledger, which is taken in its place. InputError, and nothing is
    made, when the backup's ledger is older than one that is still here.
    """
    index = read_index(archive, RULES.kind)
    given = None if ledger is None else _read(ledger, ledger)

    def check(made: Path) -> None:
        site = ClientHome.load(made)
        own = Policy.load(site.policy).ledger_in(made)
        if own.made and own.folder.is_relative_to(made):
            if given is not None and ledger is not None:
                _check_newer(own, given, ledger)
                for part in sorted(p for p in ledger.iterdir() if p.is_file() and not p.name.startswith(".")):
                    (own.folder / part.name).unlink(missing_ok=True)
                    create_file(own.folder / part.name, part.read_bytes(), PRIVATE)
                own.hashes()
            _check_none_newer(own, SiteConfig.load(site.site_config).root)
        elif ledger is not None:
            raise InputError(f"{ledger}: the backup holds no ledger; name the folder as `ledger` in policy.yaml")

    restore_backup(archive, folder, index, check)
    home = ClientHome.load(folder)
    for name in FOLDERS:
        (home.folder / name).mkdir(mode=0o700, exist_ok=True)
    if not home.secret.exists():
        create_file(home.secret, identity.new_secret(), PRIVATE)
    lost = {name for name in index.without if name != _OWN_SECRET}
    return sorted(lost | {name for name in _NEEDED if not (home.folder / name).exists()})


def _read(folder: Path, named: Path) -> list[str]:
    ledger = SiteLedger(folder=folder, delta=1e-5)
    if not ledger.made:
        raise InputError(f"{named}: no privacy ledger is there")
    return [ledger.id, *ledger.hashes()]


def _check_newer(own: SiteLedger, given: list[str], named: Path) -> None:
    here = [own.id, *own.hashes()]
    if given[: len(here)] != here:
        raise InputError(f"{named}: is not a newer copy of the ledger in the backup; expected one that goes on from it")


def _check_none_newer(own: SiteLedger, root: Path) -> None:
    """InputError when the ledger that the data's mark names is still here and goes on further."""
    bound = bound_ledger(root)
    if bound is None:
        return
    try:
        there = _read(bound.folder, bound.folder)
    except InputError:
        return  # not here any more: what a restore is for
    here = [own.id, *own.hashes()]
    if there[: len(here)] == here and len(there) > len(here):
        raise InputError(
            f"the ledger in the backup is older: {bound.folder} holds {len(there) - len(here)} more charges for these"
            f" patients; take that one with --ledger {bound.folder} (nothing was restored)"
        )
