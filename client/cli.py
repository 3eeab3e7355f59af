"""`client`: the hospital's command.

`client init DIR` once, then `client start --home DIR` for as long as it takes part.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client import home, node
from client.home import ClientHome
from shared_model.command import run_command

app = typer.Typer(
    name="client", help="A hospital in a federation.", no_args_is_help=True, pretty_exceptions_enable=False
)

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for the site's key and state.")],
    server: Annotated[str, typer.Option(help="The coordinator, HOST:PORT.")],
    ca: Annotated[Path, typer.Option(help="The consortium's ca.crt, from the coordinator.")],
    site_config: Annotated[Path, typer.Option(help="The site's configuration (YAML): name, data, splits.")],
    as_json: AsJson = False,
) -> None:
    """Make a site with a node key of its own. Never overwrites."""
    made, public_key = home.create(folder, server, ca, site_config)
    record = {"home": str(made.folder), "public_key": str(public_key)}
    lines = [
        f"site in {made.folder}",
        f"  give the coordinator: {public_key}",
        f"  next, once it is registered: client start --home {folder}",
    ]
    _print(record if as_json else lines)


@app.command()
def start(home_folder: Home) -> None:
    """Take part until SIGTERM or Ctrl-C."""
    node.start(ClientHome.load(home_folder), lambda line: print(line, flush=True))


@app.command()
def status(home_folder: Home, as_json: AsJson = False) -> None:
    """Say whether the site runs, is connected, and what it does."""
    report = node.status(ClientHome.load(home_folder))
    _print(report if as_json else [node.describe(report)])


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))


def main() -> None:
    """Console script `client`."""
    sys.exit(run_command(app, "client"))


if __name__ == "__main__":
    main()
