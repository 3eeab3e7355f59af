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
