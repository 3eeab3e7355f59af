"""The command `simulate data-card`. What it needs is imported when it is called: the command line starts quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def data_card(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of patients: phantoms, OpenKBP, gdp or DICOM.")],
    out: Annotated[Path, typer.Option(help="New folder for card.md, card.json and the pictures.")],
    kind: Annotated[
        str | None, typer.Option(help="cases, openkbp, openkbp128, gdp or dicom. Default: told from the files.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="The site's file of structure names (dicom, gdp).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of processes that read patients.")] = 2,
) -> None:
    """Write a data card: counts, voxels, prescriptions, structures. Pictures of a patient only of a phantom."""
    from simulations.reports.data_card import write_card

    for path in write_card(data, out, kind, names, workers):
        print(path)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("data-card")(data_card)
