"""What the packages import, pyproject.toml declares: a transitive package may go with the next release of another."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

HOUSE = Path(__file__).parents[1]
# Modules of optional packages that may not be installed, where the distribution has another name.
OPTIONAL = {"mlflow": ["mlflow-skinny"]}
# Scripts that a peer's own environment runs, and nothing of ours imports.
ELSEWHERE = HOUSE / "simulations" / "ratios" / "nvflare"
OURS = ("client", "server", "shared_model", "privacy", "simulations")


def _imported() -> set[str]:
    """Top-level names of foreign modules that our packages import, lazily or not."""
    found: set[str] = set()
    for root in OURS:
        for path in (HOUSE / root).rglob("*.py"):
            if path.parent == ELSEWHERE:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    return found - set(OURS) - set(sys.stdlib_module_names)


def _declared() -> list[str]:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [_plain(re.split(r"[\[<>=~! ]", line)[0]) for line in lines]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_package_is_declared() -> None:
    of_module = packages_distributions()
    # A module that no installed distribution holds belongs to an optional one of the same name.
    missing = {
        module
        for module in _imported()
        if not {_plain(name) for name in of_module.get(module, OPTIONAL.get(module, [module]))} & set(_declared())
    }
    assert missing == set()


def test_no_package_is_declared_twice() -> None:
    declared = [name for name in _declared() if name != "fedkt3d"]
    assert sorted(declared) == sorted(set(declared))
