"""Documents that lead a reader to a file name one that is there."""

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PATH = re.compile(r"`((?:client|server|shared_model|privacy|simulations|tests|docs|deploy)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/README.md", "docs/design.md"])
def test_a_named_path_is_there(document: str) -> None:
    text = (HOUSE / document).read_text(encoding="utf-8")
    missing = [path for path in PATH.findall(text) if not (HOUSE / path).exists()]
    missing += [link for link in LINK.findall(text) if not ((HOUSE / document).parent / link).exists()]
    assert missing == []


def test_a_line_of_a_document_fits_120_characters() -> None:
    wide, code = [], False
    for path in (*HOUSE.glob("*.md"), *(HOUSE / "docs").rglob("*.md")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code ^= line.startswith("```")
            # A table's row, a link and what is to be copied stay whole.
            if len(line) > 120 and not (code or line.lstrip().startswith("|") or "](" in line):
                wide.append(f"{path.relative_to(HOUSE)}:{number}")
    assert wide == []
