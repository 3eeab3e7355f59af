"""A coordinator's folder that an earlier version wrote is brought up to this one, with a copy of what changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy.flower.processes import sole_instance
from server.cli import app
from server.consortium.admission import Admissions
from server.deployment.home import SCHEMA, ServerHome
from server.deployment.migration import upgrade_coordinator
from server.runs import index
from shared_model.core.errors import InputError

KEPT = Path(__file__).parents[2] / "older_homes" / "coordinator_schema_2"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The kept folder, at another place than the one where it was made."""
    folder = tmp_path / "coordinator"
    shutil.copytree(KEPT, folder)
    return folder


def test_an_older_folder_is_refused_with_the_command_that_brings_it_up(older: Path) -> None:
    with pytest.raises(InputError, match=r"schema: 2 is of an earlier version; `server upgrade --home .*coordinator`"):
        ServerHome.load(older)


def test_an_older_folder_is_brought_up_and_finds_its_runs_and_sites(older: Path) -> None:
    index_before = (older / "state" / "runs.json").read_bytes()
    assert b"/srv/fedkt3d/coordinator/runs/first" in index_before
    said = upgrade_coordinator(older)
    home = ServerHome.load(older)
    assert [entry.out for entry in index.entries(home)] == [older / "runs" / "first"]
    assert Admissions(home).roster().names() == ["north"]
    assert (older / "before_schema_3" / "state" / "runs.json").read_bytes() == index_before
    assert any("before_schema_3" in line for line in said)
    assert upgrade_coordinator(older) == []


def test_a_run_outside_of_the_folder_stays_where_it_is(older: Path, tmp_path: Path) -> None:
    path = older / "state" / "runs.json"
    path.write_text(json.dumps({"1": {"name": "far", "out": str(tmp_path / "far"), "started": 1.0}}))
    upgrade_coordinator(older)
    assert [entry.out for entry in index.entries(ServerHome.load(older))] == [tmp_path / "far"]


def test_no_folder_is_brought_up_while_its_coordinator_runs(older: Path) -> None:
    with sole_instance(older / "state" / "start.lock", "x"), pytest.raises(InputError, match="already running"):
        upgrade_coordinator(older)
    assert json.loads((older / "server.json").read_text())["schema"] == 2


def test_a_newer_folder_is_refused(older: Path) -> None:
    record = json.loads((older / "server.json").read_text())
    (older / "server.json").write_text(json.dumps({**record, "schema": SCHEMA + 1}))
    assert upgrade_coordinator(older) == []
    with pytest.raises(InputError, match="is of a newer version"):
        ServerHome.load(older)


def test_server_start_and_upgrade_bring_an_older_folder_up(older: Path, tmp_path: Path) -> None:
    shutil.copytree(older, tmp_path / "second")
    started = CliRunner().invoke(app, ["start", "--home", str(older)])  # then ends: its TLS key was not kept
    assert "server.json: schema 3" in started.stdout
    first, second = (CliRunner().invoke(app, ["upgrade", "--home", str(tmp_path / "second")]) for _ in range(2))
    assert "state/runs.json: 1 runs" in first.stdout
    assert "nothing was changed" in second.stdout
