"""`client upgrade-check` and `client upgrade`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.site.home import ClientHome
from client.site.migration import upgrade_site

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


def upgrade_check(home_folder: Home, as_json: AsJson = False) -> None:
    """Before an upgrade: can this version take over the folder of another one? Exit 2 if not. Changes nothing."""
    from client.setup.upgrade import check_upgrade

    report = check_upgrade(home_folder)
    print(json.dumps(asdict(report), indent=1) if as_json else "\n".join(report.lines()))
    raise typer.Exit(2 if report.problems else 0)


def upgrade(home_folder: Home, as_json: AsJson = False) -> None:
    """Bring the folder of an earlier version to this version's layout, and keep its files as they were in the folder.

    `client start` does so by itself. A folder of this version stays as it is.
    """
    done = upgrade_site(home_folder)
    ClientHome.load(home_folder)
    lines = done or [f"{home_folder}: is of this version already; nothing was changed"]
    print(json.dumps({"home": str(home_folder), "done": done}, indent=1) if as_json else "\n".join(lines))


def add_to(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("upgrade-check")(upgrade_check)
    app.command()(upgrade)
