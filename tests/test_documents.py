"""Documents that lead a reader to a file name one that is there."""

import os
import re
import shutil
import subprocess
import sys
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


def built(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


def test_the_site_of_documents_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    done = built(HOUSE, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "reference" / "privacy.html").read_text()
    assert "privacy.secagg.shamir" in reference
    settings = (tmp_path / "site" / "reference" / "settings.html").read_text()
    assert "max_update_norm" in settings
    # Whoever reads behind a hospital's firewall gets the whole page: nothing comes from elsewhere.
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', settings)
    assert fetched == []


def test_a_link_that_leads_nowhere_fails_the_site(tmp_path: Path) -> None:
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        shutil.copy(HOUSE / name, tmp_path)
    for name in ("docs", "server", "client", "shared_model", "privacy", "simulations"):
        ignored = shutil.ignore_patterns("*.safetensors", "*.npz", "__pycache__")
        shutil.copytree(HOUSE / name, tmp_path / name, ignore=ignored)
    with (tmp_path / "docs" / "hospital.md").open("a") as page:
        page.write("\nSee [there](no-such-page.md).\n")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "no-such-page.md" in done.stdout + done.stderr
