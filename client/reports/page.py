"""A report as one HTML file that needs nothing else: no script, no link, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

from client.reports.sheet import DPI

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}img{max-width:100%}
table{border-collapse:collapse;margin:.6rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.label{color:#8a1c00;font-weight:600}
.yes{color:#00613c}.no{color:#8a1c00}
"""
Cell = str | float | int


class Page:
    """Collects sections; all text is escaped here and nowhere else."""

    def __init__(self, title: str, label: str = "Research software. Not for clinical use.") -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>", f'<p class="label">{escape(label)}</p>']

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add some sentences."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def items(self, texts: Iterable[str]) -> None:
        """Add a list; nothing where it is empty."""
        rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
        self._parts.append(f"<ul>{rows}</ul>" if rows else "")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Add a table; numbers stand to the right, ``yes`` and ``no`` are coloured."""
        head = "".join(f"<th>{escape(name)}</th>" for name in header)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, figure: Figure, alt: str) -> None:
        """Add a figure as PNG."""
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        data = base64.b64encode(content.getvalue()).decode()
        self._parts.append(f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">')

    def html(self) -> str:
        """The whole page."""
        body = "\n".join(part for part in self._parts if part)
        head = f'<meta charset="utf-8"><title>{escape(self._title)}</title><style>{_STYLE}</style>'
        return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _cell(value: Cell) -> str:
    if isinstance(value, str):
        return f'<td class="{value}">{value}</td>' if value in ("yes", "no") else f"<td>{escape(value)}</td>"
    return f'<td class="n">{value if isinstance(value, int) else format(value, ".2f")}</td>'
