"""`client upgrade-check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


def upgrade_check(home_folder: Home, as_json: AsJson = False) -> None:
    """Before an upgrade: can this version take over the folder of another one? Exit 2 if not. Changes nothing."""
    from client.setup.upgrade import check_upgrade

    report = check_upgrade(home_folder)
    print(json.dumps(asdict(report), indent=1) if as_json else "\n".join(report.lines()))
    raise typer.Exit(2 if report.problems else 0)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("upgrade-check")(upgrade_check)
