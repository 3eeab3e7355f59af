"""The lists of deliberate faults (*.toml), and the gate: each must make its named test fail (`make mutants`).

Every test is first run without a fault and must pass. A fault is put into a copy of the repository, never into the
repository itself. Killed means that the test ran and failed: a fault that cannot even be imported does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
COPIED = ("client", "server", "shared_model", "privacy", "simulations", "tests", "docs", "deploy", "pyproject.toml")
OURS = frozenset(COPIED) - {"docs", "deploy", "pyproject.toml"}
PASSED, FAILED = 0, 1  # exit codes of pytest; any other is neither
TIMEOUT_S = 900


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault: ``old``, which stands exactly once in ``file``, becomes ``new``; ``test`` must fail on it."""

    name: str
    file: str
    old: str
    new: str
    test: str

    def put_into(self, house: Path) -> str:
        """Put the fault into a copy of the repository; return the file's text before."""
        before = (house / self.file).read_text(encoding="utf-8")
        if before.count(self.old) != 1:
            raise SystemExit(f"{self.name}: {self.old!r} stands {before.count(self.old)} times in {self.file}")
        write(house / self.file, before.replace(self.old, self.new))
        return before


def write(path: Path, text: str) -> None:
    """Write a source file and forget its compiled form, whose time and length may be those of the text before."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def all_mutants() -> list[Mutant]:
    """Read the lists: of privacy, of hospital data."""
    lists = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(__file__).parent.glob("*.toml"))]
    return [Mutant(**entry) for content in lists for entry in content["mutant"]]


def copy_house(folder: Path) -> Path:
    """Copy what the tests need into an empty folder."""
    for name in COPIED:
        source = HOUSE / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run_test(house: Path, test: str, output: Path) -> int:
    """Run one test in the copy, in a fork of this process; return pytest's exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _in_child(house, test, output)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _in_child(house: Path, test: str, output: Path) -> int:
    os.chdir(house)
    os.environ.update(PYTHONPATH=str(house), OMP_NUM_THREADS="1")  # for the test's own children
    sys.path[:] = [str(house), *(entry for entry in sys.path if entry and Path(entry).resolve() != HOUSE)]
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    with output.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_S}", test]))


def judge(house: Path, mutant: Mutant, output: Path) -> str:
    """Return killed, survived or broken."""
    before = mutant.put_into(house)
    try:
        code = run_test(house, mutant.test, output)
    finally:
        write(house / mutant.file, before)
    return {FAILED: "killed", PASSED: "survived"}.get(code, "broken")


def table(found: Sequence[tuple[Mutant, str]]) -> str:
    """Write the results as a table in Markdown."""
    rows = [f"| `{m.name}` | {verdict} | `{m.test.rpartition('::')[2]}` |" for m, verdict in found]
    return "\n".join(["| fault | | by the test |", "|---|---|---|", *rows])


def load_libraries() -> None:
    """Import once what takes seconds, so that no fork has to. What is ours of it a fork takes from its copy."""
    for name in ("flwr.clientapp", "tests.conftest", "client.training.train", "dp_accounting.pld"):
        importlib.import_module(name)


def main() -> int:
    """Run the gate; exit code 1 if any fault is not killed, 2 if a test fails without a fault."""
    parser = argparse.ArgumentParser(description="Does each deliberate fault make its named test fail?")
    parser.add_argument("names", nargs="*", help="faults to try; without names, all")
    parser.add_argument("--table", type=Path, help="also write the results into this file, as Markdown")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="what pytest prints goes here")
    asked = parser.parse_args()
    chosen = [m for m in all_mutants() if not asked.names or m.name in asked.names]
    load_libraries()
    log, found, passed = asked.log.absolute(), [], set()
    with tempfile.TemporaryDirectory(prefix="fedkt3d-mutants-") as folder:
        house = copy_house(Path(folder))
        for mutant in chosen:
            if mutant.test not in passed and run_test(house, mutant.test, log) != PASSED:
                print(f"without any fault {mutant.test} does not pass")
                return 2
            passed.add(mutant.test)
            found.append((mutant, judge(house, mutant, log)))
            print(f"{found[-1][1]:9} {mutant.name}", flush=True)
            if asked.table:
                asked.table.write_text(table(found) + "\n", encoding="utf-8")
    killed = sum(verdict == "killed" for _, verdict in found)
    print(f"{killed} of {len(found)} faults killed")
    return int(killed < len(found))


if __name__ == "__main__":
    sys.exit(main())
