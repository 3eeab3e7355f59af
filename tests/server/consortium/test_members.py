"""The commands that change the register: one at a time, and nothing is changed where the file cannot be written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy.flower.processes import sole_instance
from server.consortium.commands import app
from server.deployment.home import ServerHome, create
from shared_model.core.errors import InputError


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


def invite(home: ServerHome, out: Path) -> None:
    CliRunner().invoke(app, ["invite", "north", "--home", str(home.folder), "--out", str(out)], catch_exceptions=False)


def test_two_changes_at_a_time_are_refused(home: ServerHome, tmp_path: Path) -> None:
    with sole_instance(home.folder / "state" / "members.lock", "x"), pytest.raises(InputError, match="already running"):
        invite(home, tmp_path / "north.invitation")
    assert not home.invitations_file.exists()
    invite(home, tmp_path / "north.invitation")
    assert home.invitations_file.exists()


def test_an_invitation_that_cannot_be_written_leaves_the_open_one_good(home: ServerHome, tmp_path: Path) -> None:
    out = tmp_path / "north.invitation"
    invite(home, out)
    before = (out.read_bytes(), home.invitations_file.read_bytes())
    for target in (out, tmp_path / "nowhere" / "x"):
        with pytest.raises(InputError, match=r"exists already|no folder"):
            invite(home, target)
    assert (out.read_bytes(), home.invitations_file.read_bytes()) == before
