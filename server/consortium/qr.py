"""A link as a QR code: as text for a terminal, as SVG for a page."""

from __future__ import annotations

import io

import segno

_QUIET = 4  # modules of margin, as the standard asks for


def qr_text(link: str) -> str:
    """Return the code in half blocks, for a terminal of 90 columns."""
    text = io.StringIO()
    segno.make_qr(link).terminal(text, border=_QUIET, compact=True)
    return text.getvalue()


def qr_svg(link: str) -> str:
    """Return the code as one SVG element, black on white whatever the page's colours are, with a name for readers."""
    drawn = segno.make_qr(link)
    title = "QR code of the link"
    found: str = drawn.svg_inline(border=_QUIET, light="#fff", dark="#000", omitsize=True, title=title)
    return found
