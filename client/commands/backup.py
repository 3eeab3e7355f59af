"""`client backup` and `client restore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from client.setup.backup import back_up_site, restore_site
from client.site.home import ClientHome

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


def backup(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the backup, on another disk.")],
    home_folder: Home,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Also private keys and the salt of pseudonyms. Keep the file secret.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the site's folder to one file, also while the site runs. Logs are left out, and private keys."""
    made = back_up_site(ClientHome.load(home_folder), archive, secrets=with_keys)
    record = {"archive": str(archive), "files": len(made.files), "without": list(made.without)}
    lines = [f"{archive}: {len(made.files)} files of site {made.owner}"]
    if made.without:
        lines.append(f"  without {', '.join(made.without)}: keep a copy of these where keys are kept")
    print(json.dumps(record, indent=1) if as_json else "\n".join(lines))


def restore(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, made by `client backup`.")],
    home_folder: Annotated[Path, typer.Option("--home", help="New folder for the site.")],
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="A newer copy of the ledger's folder, to take in its place.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a site's folder from a backup. Refused if its privacy ledger is older than one that is still here."""
    lost = restore_site(archive, home_folder, ledger)
    record = {"home": str(home_folder), "put_back": lost}
    lines = [f"{home_folder}: restored"]
    if lost:
        lines.append(f"  put back first: {', '.join(lost)}")
        lines.append("  without the keys the site cannot go on: ask the coordinator for a new invitation")
    lines.append("  stop any other copy of this site: the coordinator asks one of them only")
    lines.append(f"  next: client budget --home {home_folder}, then client start --home {home_folder}")
    print(json.dumps(record, indent=1) if as_json else "\n".join(lines))


def add_to(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(backup)
    app.command()(restore)
