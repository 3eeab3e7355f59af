"""Run a console script: print one clear line for an error, and return the project's exit code.

0 done, 1 a fault in this program, 2 bad input, 3 refused by policy. A fault shows its type. With FEDKT3D_TRACEBACK=1
in the environment it also shows the whole traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version

import click
import typer

from shared_model.core.errors import FedKT3DError

FAULT = 1
BAD_INPUT = 2
INTERRUPTED = 130  # as shells report SIGINT


def run_command(application: typer.Typer, name: str) -> int:
    """Run the typer application as the command `name` on sys.argv and return its exit code."""
    try:
        result = application(standalone_mode=False, prog_name=name)
    except FedKT3DError as error:
        return _say(name, str(error), error.exit_code)
    except click.exceptions.ClickException as error:
        # A command without arguments has already shown its help. Its message is empty.
        return _say(name, error.format_message(), BAD_INPUT) if error.format_message() else BAD_INPUT
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _say(name, "interrupted", INTERRUPTED)
    except Exception as error:
        if os.environ.get("FEDKT3D_TRACEBACK") == "1":
            traceback.print_exc()
        return _say(name, f"a fault of ours: {type(error).__name__}: {error}", FAULT)
    return result if isinstance(result, int) else 0


def add_version(application: typer.Typer, name: str) -> None:
    """Add the option ``--version``, which prints the command's name and the package's version and stops."""

    def show_version(asked: bool) -> None:
        if asked:
            print(f"{name} (fedkt3d) {version('fedkt3d')}")
            raise typer.Exit

    option = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Print the version and stop.")

    @application.callback(help=application.info.help)
    def _before_each_command(version: bool = option) -> None:
        """Do nothing. Typer needs this function to hold the option ``--version``."""


def _say(name: str, text: str, code: int) -> int:
    line = " ".join(text.split())
    print(f"{name}: error: {line}", file=sys.stderr)
    return code
