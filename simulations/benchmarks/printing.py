"""How a benchmark that measures a few numbers shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table


def print_numbers(title: str, numbers: Mapping[str, float], *, as_json: bool) -> None:
    """Print one JSON object, or a table of names and values."""
    if as_json:
        print(json.dumps(numbers))
        return
    table = Table(title=title)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in numbers.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)
