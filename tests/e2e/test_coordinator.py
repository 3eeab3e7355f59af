"""The coordinator's commands against real processes: progress, Ctrl-C and resume, status, publish, restarts."""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from server.runs.index import Tail
from shared_model.adapter.manifest import load_adapter, vector_hash
from tests.e2e.conftest import FAST
from tests.e2e.deployment import SCRIPTS, START_S, Deployment, alive, eventually, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Long enough to be caught in the middle.
SLOW = ("rounds.count=3", "rounds.attempts=10", *FAST, "model.shape=[16,16,16]", "train.local_steps=40")


def start_run(federation: Deployment, *arguments: str) -> subprocess.Popen[str]:
    """`server run` in the background, without a terminal."""
    return subprocess.Popen(
        [str(SCRIPTS / "server"), "run", "--home", str(federation.home), *arguments],
        cwd=federation.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def events(federation: Deployment, name: str) -> list[dict[str, Any]]:
    return list(Tail(federation.home / "runs" / name / "events.jsonl", from_start=True).new())


def reached(federation: Deployment, name: str, kind: str, number: int = 1) -> None:
    """Wait for an event of a run."""
    eventually(
        lambda: any(event["kind"] == kind and event.get("round", 0) == number for event in events(federation, name)),
        90,
        f"{name}: {kind} of round {number}",
    )


def server_status(federation: Deployment) -> dict[str, Any]:
    return dict(json.loads(federation.must("server", "status", "--home", federation.home, "--json")))


@pytest.fixture(scope="module")
def calm(federation: Deployment) -> dict[str, Any]:
    """The same run, undisturbed."""
    return federation.run("name=calm", *SLOW)["report"]


def test_without_a_terminal_each_event_is_a_line_and_the_end_is_a_table(
    federation: Deployment, calm: dict[str, Any]
) -> None:
    shown = federation.must("server", "run", "--home", federation.home, "name=lines", "rounds.count=1", *FAST)
    assert "round 1/1: site done north" in shown
    done = next(line for line in shown.splitlines() if line.startswith("round 1/1: round done"))
    assert "2 sites" in done
    assert " MB" in done
    assert "loss " in done
    assert "adapter: " in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on_and_ends_as_the_undisturbed_one(
    federation: Deployment, calm: dict[str, Any], number: signal.Signals
) -> None:
    name = f"stopped-{number.name}"
    process = start_run(federation, f"name={name}", *SLOW)
    reached(federation, name, "round_started", 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    said = re.search(r"stopped after round (\d) of 3", errors)
    # the sites may have finished the round in the moment between its start and the signal
    assert said is not None, errors
    assert int(said[1]) in (1, 2)
    assert errors.count("\n") == 1
    told = next(run for run in server_status(federation)["runs"] if run["name"] == name)
    assert (told["status"], told["round"], told["rounds"]) == ("finished:stopped", int(said[1]), 3)
    again = json.loads(
        federation.must("server", "run", "--home", federation.home, "--resume", "--run", name, "--json", timeout_s=200)
    )
    assert again["report"]["resumed_from"] >= 1
    assert again["report"]["adapter_sha256"] == calm["adapter_sha256"]


def test_a_run_under_way_is_followed_and_another_one_keeps_out(federation: Deployment, calm: dict[str, Any]) -> None:
    first = start_run(federation, "name=busy", *SLOW)
    reached(federation, "busy", "round_started")
    other = federation.command("server", "run", "--home", federation.home, "name=busy", "seed=9", *SLOW)
    assert other.returncode == 2
    assert "another run is using this folder" in other.stderr
    first.kill()  # the terminal was closed; the run goes on without it
    first.wait()
    followed = federation.run("name=busy", *SLOW)
    assert followed["report"]["resumed_from"] == 0
    assert followed["report"]["adapter_sha256"] == calm["adapter_sha256"]


def test_publish_writes_the_adapter_and_a_card_that_names_no_site(
    federation: Deployment, calm: dict[str, Any], tmp_path: Path
) -> None:
    made = json.loads(
        federation.must("server", "publish", tmp_path / "p", "--home", federation.home, "--run", "calm", "--json")
    )
    content = Path(made["adapter"]).read_bytes()
    assert content == (federation.home / "runs" / "calm" / "adapter.safetensors").read_bytes()
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    _, vector, card = load_adapter(Path(made["adapter"]))
    assert vector_hash(vector) == calm["adapter_sha256"] == card["adapter"]["sha256"]
    assert card["sites"] == {"site-1": 2, "site-2": 2}
    assert b"north" not in Path(made["card"]).read_bytes()
    unfinished = federation.command(
        "server", "publish", tmp_path / "q", "--home", federation.home, "--run", "none-such"
    )
    assert unfinished.returncode == 2
    assert "none-such" in unfinished.stderr


def test_bad_input_of_the_commands_is_one_line(federation: Deployment, calm: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    home = ("--home", federation.home)
    for arguments in (
        ("server", "run", *home, "--resume", "name=x"),
        ("server", "run", *home, "--run", "calm"),
        ("server", "run", *home, "--resume", "--run", "none-such"),
        ("server", "run", *home, "name=x", "--out", tmp_path / "file"),
        ("server", "publish", tmp_path / "file", *home, "--run", "calm"),
    ):
        result = federation.command(*arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), (arguments, result.stderr)


def test_a_failed_run_says_why(federation: Deployment, calm: dict[str, Any]) -> None:
    few = ("name=few", "rounds.min_sites=3", "rounds.wait_for_sites_s=1", "rounds.attempts=1")
    result = federation.command("server", "run", "--home", federation.home, *FAST, *few)
    assert result.returncode == 1
    assert "fewer than 3 usable answers" in result.stderr
    assert result.stderr.count("\n") == 1
    told = next(run for run in server_status(federation)["runs"] if run["name"] == "few")
    assert told["status"] == "finished:failed"
    assert "fewer than 3" in told["reason"]


def test_a_killed_server_app_is_reported_at_once_and_the_run_goes_on(
    federation: Deployment, calm: dict[str, Any]
) -> None:
    process = start_run(federation, "name=killed-app", "--json", *SLOW)
    reached(federation, "killed-app", "round_started", 2)
    executor = federation.children(federation.home)["executor"]
    (victim,) = children_of(executor)
    os.kill(victim, signal.SIGKILL)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "ended (signal 9); going on from the last checkpoint" in errors
    assert json.loads(out)["report"]["adapter_sha256"] == calm["adapter_sha256"]


def test_a_server_app_that_is_starved_at_its_start_keeps_its_task(federation: Deployment) -> None:
    """A loaded machine: the new process gets no time for longer than the lease of the SuperLink, 30 s and then 60 s."""
    executor = federation.children(federation.home)["executor"]
    eventually(lambda: not children_of(executor), 30, "the server app of the last run is gone")
    process = start_run(federation, "name=starved", "--json", *FAST, "rounds.count=1")
    (starved,) = eventually(lambda: children_of(executor), 60, "the server app's process")
    os.kill(starved, signal.SIGSTOP)
    try:
        time.sleep(75)
        assert alive(starved)
    finally:
        os.kill(starved, signal.SIGCONT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "going on from" not in errors
    assert len(json.loads(out)["report"]["history"][0]["sites"]) == 2


def test_no_run_is_called_running_after_the_coordinator_was_killed(
    federation: Deployment, calm: dict[str, Any]
) -> None:
    client = start_run(federation, "name=orphan", *SLOW)
    reached(federation, "orphan", "round_started")
    client.kill()
    client.wait()
    pids = [*federation.children(federation.home).values(), read(federation.home / "state" / "start.json")["pid"]]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids), 20, "the coordinator is gone")
    stale = next(run for run in server_status(federation)["runs"] if run["name"] == "orphan")
    assert stale["status"] == "not running"
    federation.start_coordinator()
    started = time.monotonic()
    eventually(
        lambda: (
            [run["status"] for run in server_status(federation)["runs"] if run["name"] == "orphan"]
            == ["finished:failed"]
        ),
        START_S,
        "the run is called failed",
    )
    print(f"known as failed {time.monotonic() - started:.1f} s after the coordinator was ready")
    told = next(run for run in server_status(federation)["runs"] if run["name"] == "orphan")
    assert "stopped or restarted" in told["reason"]


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found
