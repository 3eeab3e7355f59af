"""The house rules that no import contract in pyproject.toml can say: what a room loads, and how large things are."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGES = ("client", "server", "shared_model", "privacy", "simulations")
MOST_MODULES = 15  # in a room
MOST_LINES = 300  # in a file
# What must not be loaded by importing any module of a room: torch takes seconds and half a gigabyte, and a command that
# needs none of it answers at once.
NOT_LOADED = {
    "server": ("torch",),
    "client/gate": ("torch",),
    "client/site": ("torch",),
    "client/setup": ("diffusers", "peft", "transformers"),
    "privacy/wire": ("torch",),
    "shared_model/core": ("torch", "flwr"),
}
# What Flower documents. All else of it may change with any version, and is touched in one room.
FLOWERS_ROOM = "privacy/flower/internals"
FLOWER_DOCUMENTS = (
    "flwr",
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
)


def _sources(root: str = "") -> list[Path]:
    roots = [root] if root else PACKAGES
    return sorted(path for name in roots for path in (HOUSE / name).rglob("*.py"))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("room", NOT_LOADED)
def test_a_room_does_not_load_what_it_can_do_without(room: str) -> None:
    code = f"""\
import importlib, sys
for module in {[_module(path) for path in _sources(room)]!r}:
    importlib.import_module(module)
    found = [name for name in {NOT_LOADED[room]!r} if name in sys.modules]
    if found:
        sys.exit(f"{{module}} loads {{found[0]}}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_room_holds_more_modules_than_a_reader_takes_in() -> None:
    rooms: dict[Path, int] = defaultdict(int)
    for path in _sources():
        rooms[path.parent.relative_to(HOUSE)] += path.name != "__init__.py"
    assert {str(room): count for room, count in rooms.items() if count > MOST_MODULES} == {}


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    lengths = {str(path.relative_to(HOUSE)): len(path.read_text().splitlines()) for path in _sources()}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_every_class_has_a_name_of_its_own() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(_module(path))
    twice = {name: where for name, where in modules.items() if len(where) > 1}
    assert twice == {}, "give the new class another name"


def test_flowers_internals_are_touched_in_one_room() -> None:
    elsewhere: dict[str, set[str]] = defaultdict(set)
    for path in _sources():
        where = str(path.relative_to(HOUSE))
        if not where.startswith(f"{FLOWERS_ROOM}/"):
            elsewhere[where] = {name for name in _flower_modules(path) if name not in FLOWER_DOCUMENTS}
    assert {where: names for where, names in elsewhere.items() if names} == {}, f"move them into {FLOWERS_ROOM}"


def _flower_modules(path: Path) -> set[str]:
    """Modules of Flower that a file imports, by a statement or by a text that names one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            found.add(node.value)
    return {name for name in found if name.partition(".")[0] == "flwr" and not name.startswith("flwr/")}
