"""Every command of the tutorials and the README is there with its options, and every picture is there and small."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
import typer

import client.cli
import server.cli
import simulations.cli
from server.config.compose import compose_run
from shared_model.core.errors import FedKT3DError
from simulations.settings.composition import compose_values

APPS = {"client": client.cli.app, "server": server.cli.app, "simulate": simulations.cli.app}
HOUSE = Path(__file__).parents[1]
TUTORIALS = HOUSE / "docs" / "tutorials"
NAMES = ("hospital", "coordinator", "researcher")
MOST_BYTES = 150_000


def commands(text: str) -> list[list[str]]:
    """The commands of ours in a document's blocks, a line that goes on joined to its next."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.split(" ", 1)[0] in APPS]


def fault(words: list[str]) -> str:
    """What is wrong with a command: no such word, no such option; empty if nothing is."""
    group = typer.main.get_command(APPS[words[0]])
    assert isinstance(group, click.Group)
    command = group.commands.get(words[1])
    if command is None:
        return f"{words[0]} {words[1]}: no such command"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words[2:] if word.startswith("--") and word not in known]
    if unknown:
        return f"{words[0]} {words[1]}: {unknown[0]}"
    return unsettled(words, [word for word in words[2:] if re.match(r"[a-z_.]+=", word)])


def unsettled(words: Sequence[str], overrides: Sequence[str]) -> str:
    """What the command's configuration says of keys and values that are set; empty where it takes them."""
    try:
        if overrides and words[0] == "simulate":
            compose_values(words[1], overrides)
        elif overrides and words[0] == "server":
            compose_run(overrides, sites=5)
    except FedKT3DError as error:
        return f"{words[0]} {words[1]}: {error}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_tutorial_are_there(name: str) -> None:
    found = commands((TUTORIALS / f"{name}.md").read_text(encoding="utf-8"))
    assert len(found) >= 3
    assert [said for words in found if (said := fault(words))] == []


def test_the_commands_of_the_readme_are_there() -> None:
    found = commands((HOUSE / "README.md").read_text(encoding="utf-8"))
    assert {words[0] for words in found} == set(APPS)
    assert [said for words in found if (said := fault(words))] == []


def test_a_command_or_an_option_that_is_not_there_is_found() -> None:
    assert commands("```\nclient check --data X \\\n  --kind dicom\n```\n") == [
        ["client", "check", "--data", "X", "--kind", "dicom"]
    ]
    assert fault(["client", "check", "--data", "X"]) == ""
    assert fault(["client", "chek"]) == "client chek: no such command"
    assert fault(["client", "check", "--dta", "X"]) == "client check: --dta"
    assert "rounds.cuont" in fault(["simulate", "run", "rounds.cuont=2"])
    assert "privacy.epsilom" in fault(["server", "run", "--home", "HOME", "privacy.epsilom=6"])


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_of_a_tutorial_are_there_and_small(name: str) -> None:
    pictures = re.findall(r"!\[[^]]+\]\((\.\./images/\S+)\)", (TUTORIALS / f"{name}.md").read_text(encoding="utf-8"))
    assert pictures
    sizes = {picture: (TUTORIALS / picture).stat().st_size for picture in pictures}
    assert {picture: size for picture, size in sizes.items() if size > MOST_BYTES} == {}
