"""`client track`: a site's own curves for TensorBoard or MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_model.core.errors import InputError


def track(
    home_folder: Annotated[Path | None, typer.Option("--home", help="The site's folder: its newest alignment.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of a `client align` instead.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="MLflow's address: http://..., sqlite:///..., file:...")] = None,
    once: Annotated[bool, typer.Option("--once", help="Write what is there and end.")] = False,
) -> None:
    """Write an alignment's curves for TensorBoard or MLflow, at this site, live until it ends. Needs either extra."""
    from client.adapters.track import CURVES, newest_alignment, track_alignment
    from client.site.home import ClientHome
    from shared_model.core.curve_stores import curves_of

    if (home_folder is None) == (out is None):
        raise InputError("track: expected --home or --out")
    folder = out if out is not None else newest_alignment(ClientHome.load(home_folder or Path()))
    if not (folder / CURVES).is_file():
        raise InputError(f"{folder}: no {CURVES}; expected the folder of an alignment")
    store = curves_of(tensorboard, mlflow, f"alignment {folder.name}")
    print(f"epochs written: {track_alignment(folder, store, live=not once)}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(track)
