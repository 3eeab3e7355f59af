"""`make demo`'s table: what a hospital gains by joining, from the summary.json of a run of both studies.

Usage: ``python -m simulations.reports.alone_or_together OUT``, OUT being the folder of a
``simulate run study=[federated,local]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared_model.core.errors import InputError
from simulations.reports.tables import Summary, read_summary

SCORE = "dose_score_gy"
# Of the columns, in characters.
_WIDTHS = (18, 8, 12, 8, 10)


def gain_table(summary: Summary) -> str:
    """Plain text: each hospital's dose score (Gy) alone and together, on its own and on all held-back patients.

    A hospital without held-back patients has no row. Raises InputError if the run lacks one of the two studies.
    """
    studies = summary["studies"]
    if "federated" not in studies or "everywhere" not in studies.get("local", {}):
        raise InputError("the run has no studies to compare; expected simulate run study=[federated,local]")
    together, alone = studies["federated"], studies["local"]
    patients = sum(int(site["patients"]) for site in together["per_site"].values())
    lines = [
        f"Dose error in Gy on {patients} patients that no model was trained on; lower is better.",
        "own: the hospital's own patients. all: the patients of all hospitals.",
        "",
        _row("scored on", "own", "own", "all", "all"),
        _row("trained", "alone", "together", "alone", "together"),
    ]
    for name, own in together["per_site"].items():
        everywhere = alone["everywhere"]["per_model"][name][SCORE]
        lines.append(_scores(name, alone["per_site"][name][SCORE], own[SCORE], everywhere, together[SCORE]))
    lines.append(_scores("mean", alone[SCORE], together[SCORE], alone["everywhere"][SCORE], together[SCORE]))
    return "\n".join(lines)


def _scores(name: str, *values: float) -> str:
    return _row(name, *(f"{value:.2f}" for value in values))


def _row(name: str, *cells: str) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip((name, *cells), _WIDTHS, strict=True)).rstrip()


def main() -> None:
    """Print the table of the run in the folder that the command line names."""
    try:
        print(gain_table(read_summary(Path(sys.argv[1]) / "summary.json")))
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
