"""Commands in forks of one process: each is what the console script would be, and leaves the next one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.soak.commands import Commands


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    made = Commands(os.environ, tmp_path_factory.mktemp("commands"))
    yield made
    made.close()


def test_a_command_does_its_work_and_the_next_sees_it(commands: Commands) -> None:
    made = commands.run("server", "init", "forked", "--home", "coordinator")
    assert made.returncode == 0, made.stderr
    assert "coordinator of forked" in made.stdout
    again = commands.run("server", "init", "forked", "--home", "coordinator")
    assert again.returncode == 2
    assert "exists and is not empty" in again.stderr
    assert again.stdout == ""


def test_a_command_of_the_other_program_and_a_bad_one_have_their_own_exit_codes(
    commands: Commands, tmp_path: Path
) -> None:
    assert commands.run("client", "--version").stdout.startswith("client (fedkt3d)")
    refused = commands.run("client", "status", "--home", str(tmp_path))
    assert (refused.returncode, "no site here" in refused.stderr) == (2, True)
