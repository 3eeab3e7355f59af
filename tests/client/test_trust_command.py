"""`client trust`: digits go from one hospital's screen into another's folder, and another key is seen."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from shared_model.core.errors import InputError
from tests.builders.hospital_homes import Homes


def told(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["trust", *arguments, "--json"], catch_exceptions=False)
    return dict(json.loads(result.output))


def test_digits_are_shown_entered_and_forgotten(tmp_path: Path) -> None:
    homes = Homes(tmp_path)
    a, b = (str(homes.homes[name].folder) for name in ("a", "b"))
    shown = told("show", "--home", b)
    assert shown["not_compared"] == ["a", "c"]
    spoken = str(shown["digits"]).replace(" ", "-")
    assert told("add", "b", spoken, "--home", a) == {"site": "b", "differs": False}
    assert told("show", "--home", a)["not_compared"] == ["c"]
    assert told("add", "c", spoken, "--home", a) == {"site": "c", "differs": True}
    assert told("show", "--home", a)["not_compared"] == ["c"]
    with pytest.raises(InputError, match="other digits were compared before"):
        told("add", "b", "1" * 40, "--home", a)
    with pytest.raises(InputError, match="8 groups of five digits"):
        told("add", "c", "12345", "--home", a)
    told("remove", "b", "--home", a)
    assert told("show", "--home", a)["not_compared"] == ["b", "c"]
