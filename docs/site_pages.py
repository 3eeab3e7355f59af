"""What the site of documents shows beside the files of this folder: the project's own pages, and the reference.

A hook of MkDocs (mkdocs.yml). README.md and its like lie outside of the folder and are taken in as pages; a link to
any other file of the repository becomes its name, for the site does not hold the code. Reference pages are made of the
docstrings and of the annotated settings, so that they cannot fall behind.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PROJECT = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")

# The modules that each page of the reference shows.
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": (
        "The model: patients, network, prediction, scores",
        (
            "shared_model.patient.case", "shared_model.patient.geometry", "shared_model.channels.volumes",
            "shared_model.network.pyramid", "shared_model.training.recipe", "shared_model.training.run",
            "shared_model.prediction.predictor",
            "shared_model.scoring.dosimetry", "shared_model.scoring.scorecard", "shared_model.adapter.manifest",
            "client.prediction.predict",
        ),
    ),
    "privacy": (
        "Privacy: accounts, sums, trust",
        (
            "privacy.dp.accountant", "privacy.dp.terms", "privacy.dp.ledger", "privacy.secagg.site",
            "privacy.secagg.server", "privacy.secagg.shamir", "privacy.wire.messages",
        ),
    ),
    "federation": (
        "The federation: rounds, strategies, sites",
        (
            "server.config.run", "server.strategy.interface", "server.strategy.fedavg", "server.strategy.trimmed_mean",
            "client.site.config", "client.site.policy",
        ),
    ),
}  # fmt: skip
# Annotated settings: who uses them, and the file.
SETTINGS = (
    ("Of a run, at the coordinator and in simulations", "server/conf/base.yaml"),
    ("`simulate run`", "simulations/conf/run.yaml"),
    ("`simulate train`", "simulations/conf/train.yaml"),
    ("`simulate evaluate`", "simulations/conf/evaluate.yaml"),
    ("`simulate baselines`", "simulations/conf/baselines.yaml"),
    ("`simulate ablation`", "simulations/conf/ablation.yaml"),
    ("`simulate transfer`", "simulations/conf/transfer.yaml"),
    ("`simulate scorecards`", "simulations/conf/scorecards.yaml"),
    ("OpenKBP", "simulations/conf/data/openkbp.yaml"),
    ("Phantoms", "simulations/conf/data/phantom.yaml"),
)


def on_config(config: Any) -> Any:
    """Put a folder's pages where the navigation names the folder."""
    docs = Path(config["docs_dir"])
    for section in config["nav"]:
        for title, pages in section.items():
            if isinstance(pages, str) and pages.endswith("/"):
                found = sorted((docs / pages).glob("*.md"), key=lambda p: (p.name != "README.md", p.name))
                section[title] = [pages + page.name for page in found]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files of docs/."""
    pages: dict[str, str] = {f"project/{name}": (ROOT / name).read_text() for name in PROJECT}
    for name, (title, modules) in REFERENCE.items():
        pages[f"reference/{name}.md"] = f"# {title}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
    settings = "\n".join(f'## {who}\n\n`{path}`\n\n```yaml\n--8<-- "{path}"\n```\n' for who, path in SETTINGS)
    pages["reference/settings.md"] = f"# Settings and their defaults\n\n{settings}"
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links by the repository's paths into links by the site's."""
    uri = page.file.src_uri
    return LINK.sub(_relinked(uri, files), markdown)


def _relinked(uri: str, files: Files) -> Callable[[re.Match[str]], str]:
    """``uri``: of the page in the site. Its file lies in docs/, but for those of the project at the root."""
    lies_in = "" if uri.startswith("project/") else posixpath.join("docs", posixpath.dirname(uri))

    def link(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match.group(0)
        path, _, anchor = target.partition("#")
        of_repository = posixpath.normpath(posixpath.join(lies_in, path))
        if of_repository in PROJECT:
            wanted = f"project/{of_repository}"
        elif of_repository.startswith("docs/"):
            wanted = of_repository.removeprefix("docs/")
        else:
            wanted = ""
        if (ROOT / of_repository).is_dir() and files.get_file_from_path(f"{wanted}/README.md"):
            wanted += "/README.md"
        if not wanted or files.get_file_from_path(wanted) is None:
            if not (ROOT / of_repository).exists():
                return match.group(0)  # leads nowhere: the build says so
            return text if "`" in text or text == of_repository else f"{text} (`{of_repository}`)"
        shown = posixpath.relpath(wanted, posixpath.dirname(uri) or ".")
        return f"{picture}[{text}]({shown}{'#' + anchor if anchor else ''})"

    return link
