"""The list of faults fits the code, and the gate tells a fault that is killed from one that is not."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.gate import HOUSE, Mutant, all_mutants, judge

MUTANTS = all_mutants()


def test_there_are_at_least_twenty_faults_of_different_names() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_fits_the_code_as_it_is_and_names_a_test(mutant: Mutant) -> None:
    """Whoever moves the code moves the fault with it: `make mutants` is not in every run."""
    assert (HOUSE / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    file, _, name = mutant.test.partition("::")
    assert re.search(rf"^(def {name}\(|{name} = )", (HOUSE / file).read_text(), re.MULTILINE)


def test_killed_survived_and_broken_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "test_sums.py").write_text("from sums import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n")
    log = tmp_path / "log"
    fault = Mutant(name="minus", file="sums.py", old="a + b", new="a - b", test="test_sums.py::test_add")
    assert judge(tmp_path, fault, log) == "killed"
    assert judge(tmp_path, replace(fault, new="a * b"), log) == "survived"
    assert judge(tmp_path, replace(fault, new="a +"), log) == "broken"
    assert (tmp_path / "sums.py").read_text() == "def add(a, b):\n    return a + b\n"
