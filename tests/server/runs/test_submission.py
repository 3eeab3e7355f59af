"""Which run `server run` follows: one that is under way is never submitted twice. With real processes: tests/e2e."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.config.run import RunConfig
from server.deployment.home import ServerHome, create
from server.record.journal import Journal
from server.runs import index as runs
from server.runs import submission
from server.runs.submission import Submission
from shared_model.core.errors import InputError
from tests.builders.run_config import plain_run

PLAIN = plain_run()


class Ledger:
    """Stands in for the SuperLink's list of runs."""

    def __init__(self, **states: str) -> None:
        self.states = states

    def runs(self) -> list[dict[str, Any]]:
        return [{"run-id": run_id, "status": status} for run_id, status in self.states.items()]

    def submit(self, app: Path, run_config: Path) -> str:
        self.states[f"new{len(self.states)}"] = "pending"
        return f"new{len(self.states) - 1}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerHome:
    monkeypatch.setattr(submission, "wait_until_ready", lambda home: None)
    for constant in ("SUBMIT_S", "LOCK_S", "RETRY_S"):
        monkeypatch.setattr(submission, constant, 0.0)
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


def followed(home: ServerHome, ledger: Ledger, config: RunConfig, out: Path) -> str:
    out.mkdir(exist_ok=True)
    return Submission(home, ledger, config, out).first()  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["pending", "starting", "running"])
def test_a_run_whose_server_app_has_not_started_yet_is_followed(home: ServerHome, tmp_path: Path, status: str) -> None:
    """The command was killed right after it had submitted: nobody holds the folder yet."""
    ledger, out = Ledger(), tmp_path / "out"
    first = followed(home, ledger, PLAIN, out)
    ledger.states[first] = status
    assert followed(home, ledger, PLAIN, out) == first
    assert list(ledger.states) == [first]


def test_a_run_that_is_over_or_forgotten_is_submitted_again(home: ServerHome, tmp_path: Path) -> None:
    ledger, out = Ledger(), tmp_path / "out"
    first = followed(home, ledger, PLAIN, out)
    ledger.states[first] = "finished:failed"
    second = followed(home, ledger, PLAIN, out)
    assert second != first
    # The SuperLink's database may be lost at no cost.
    assert followed(home, Ledger(), PLAIN, out) == "new0"


def test_a_command_killed_while_submitting_finds_its_run(home: ServerHome, tmp_path: Path) -> None:
    ledger, out = Ledger(other="running"), tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    runs.remember(home, "other", replace(PLAIN, name="other"), tmp_path / "elsewhere")
    out.mkdir()
    runs.intend(PLAIN, out)
    ledger.states["lost"] = "running"
    assert followed(home, ledger, PLAIN, out) == "lost"
    assert runs.find(home, PLAIN.name).run_id == "lost"


def test_another_configuration_keeps_out_of_a_run_under_way(home: ServerHome, tmp_path: Path) -> None:
    ledger, out = Ledger(), tmp_path / "out"
    first = followed(home, ledger, PLAIN, out)
    with pytest.raises(InputError, match="another run is using this folder"):
        followed(home, ledger, replace(PLAIN, seed=1), out)
    ledger.states[first] = "finished:completed"
    with Journal(out), pytest.raises(InputError, match="another run is using this folder"):
        followed(home, ledger, replace(PLAIN, seed=1), out)
    assert list(ledger.states) == [first]
