"""A site comes back by itself, whatever fails: coordinator, line, SuperNode or executor. Real processes, no mock.

Every test ends with a run in which both sites train: connected and silent is not back.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations.soak.relay import Relay
from tests.e2e.conftest import FAST
from tests.e2e.deployment import SCRIPTS, Deployment, eventually, read
from tests.e2e.faults import FaultProxy, reach_by

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

BACK_S = 60.0
# Long enough to be caught in the middle of a round; a site that fails is asked again.
SLOW = (
    *FAST,
    "model.shape=[16,16,16]",
    "rounds.count=1",
    "rounds.attempts=5",
    "rounds.deadline_s=150",
    "train.local_steps=150",
)


@pytest.fixture(scope="module")
def relay_and_proxy(
    tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]
) -> Iterator[tuple[Deployment, Relay, FaultProxy]]:
    """A coordinator; north reaches it through a relay, south through a reverse proxy."""
    deployment = Deployment(tmp_path_factory.mktemp("recovery"))
    proxy: FaultProxy | None = None
    try:
        deployment.start_coordinator()
        relay, proxy = Relay(deployment.port), FaultProxy(deployment.home, deployment.port)
        for name, port in (("north", relay.port), ("south", proxy.port)):
            deployment.admit(name, deployment.make_site(name, hospitals[name]))
            reach_by(deployment.site(name), port)
            deployment.spawn("client", deployment.site(name))
        for name in ("north", "south"):
            deployment.connected(name)
        yield deployment, relay, proxy
    finally:
        deployment.close()
        if proxy is not None:
            proxy.close()


@pytest.fixture
def federation(relay_and_proxy: tuple[Deployment, Relay, FaultProxy]) -> Deployment:
    return relay_and_proxy[0]


def state(federation: Deployment, site: str, process: str) -> dict[str, Any]:
    return read(federation.site(site) / "state" / f"{process}.json")


def in_the_background(federation: Deployment, name: str) -> subprocess.Popen[str]:
    """A slow run; returns when both sites train."""
    command = [str(SCRIPTS / "server"), "run", "--home", str(federation.home), f"name={name}", *SLOW]
    run = subprocess.Popen(
        command,
        cwd=federation.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )

    def training(site: str) -> bool:
        return (state(federation, site, "executor").get("task") or {}).get("kind") == "train"

    eventually(lambda: training("north") and training("south"), 150, "both sites train")
    return run


def report(federation: Deployment, name: str, run: subprocess.Popen[str]) -> dict[str, Any]:
    assert run.wait(250) == 0
    return read(federation.home / "runs" / name / "federation.json")


def both_work(federation: Deployment, name: str) -> None:
    """A run finds both sites and finishes, and neither fails in it."""
    outcome = federation.run(*FAST, f"name={name}", "rounds.count=1")["report"]
    assert sorted(outcome["history"][0]["sites"]) == ["north", "south"]
    assert outcome["drops"] == []


def is_back(federation: Deployment, site: str) -> bool:
    idle = state(federation, site, "executor").get("state") == "idle"
    return idle and state(federation, site, "supernode").get("connection") == "connected"


@pytest.mark.parametrize("process", ["executor", "supernode"])
def test_a_process_killed_in_a_round_is_back_and_the_round_is_done_with_both(
    federation: Deployment, process: str
) -> None:
    run = in_the_background(federation, f"killed-{process}")
    before = state(federation, "north", "executor")["since"]
    os.kill(federation.children(federation.site("north"))[process], signal.SIGKILL)

    def trains_anew() -> bool:
        now = state(federation, "north", "executor")
        return (now.get("task") or {}).get("kind") == "train" and now["since"] != before

    eventually(trains_anew, BACK_S, "north works on a new task")
    outcome = report(federation, f"killed-{process}", run)
    assert sorted(outcome["history"][0]["sites"]) == ["north", "south"]
    assert {drop["site"] for drop in outcome["history"][0]["drops"]} <= {"north"}


def test_a_coordinator_that_restarts_in_a_round_finds_its_sites(
    federation: Deployment, relay_and_proxy: tuple[Deployment, Relay, FaultProxy]
) -> None:
    run = in_the_background(federation, "restarted")
    coordinator = next(process for process, home in federation._started if home == federation.home)
    coordinator.send_signal(signal.SIGTERM)
    assert coordinator.wait(40) == 0
    (federation.home / "state" / "start.json").unlink(missing_ok=True)
    federation.start_coordinator()
    for site in ("north", "south"):
        eventually(lambda site=site: is_back(federation, site), BACK_S, f"{site} is back")
    run.wait(250)  # whether it went on by itself or not is the coordinator's affair
    both_work(federation, "after-restart")


def test_a_line_that_is_dead_for_a_minute_leaves_no_site_silent(
    federation: Deployment, relay_and_proxy: tuple[Deployment, Relay, FaultProxy]
) -> None:
    relay = relay_and_proxy[1]
    run = in_the_background(federation, "cut")
    relay.cut()
    time.sleep(60)
    assert state(federation, "north", "supernode")["connection"] == "retrying"
    relay.restore()
    eventually(lambda: state(federation, "north", "supernode")["connection"] == "connected", BACK_S, "north is back")
    outcome = report(federation, "cut", run)
    assert sorted(outcome["history"][0]["sites"]) == ["north", "south"]
    both_work(federation, "after-cut")


@pytest.mark.parametrize("call", ["pull-messages", "send-node-heartbeat", "activate-node"])
def test_passing_server_errors_leave_no_site_dead(
    federation: Deployment, relay_and_proxy: tuple[Deployment, Relay, FaultProxy], call: str
) -> None:
    proxy = relay_and_proxy[2]
    before = federation.children(federation.site("south"))["supernode"]
    if call == "activate-node":
        os.kill(before, signal.SIGTERM)
    proxy.fail(call, 500, times=2)
    eventually(lambda: proxy.faults[call][1] == 0, BACK_S, "the errors were given")
    eventually(lambda: is_back(federation, "south"), BACK_S, "south is back")
    both_work(federation, f"after-500-{call}")


@pytest.mark.parametrize("call", ["push-messages", "push-object", "pull-object", "confirm-message-received", "get-run"])
def test_server_errors_in_a_round_lose_no_answer(
    federation: Deployment, relay_and_proxy: tuple[Deployment, Relay, FaultProxy], call: str
) -> None:
    proxy = relay_and_proxy[2]
    proxy.answered.clear()
    proxy.fail(call, 500, times=2)
    outcome = federation.run(*FAST, f"name=errors-{call}", "rounds.count=1")["report"]
    assert proxy.answered == [call, call]
    assert outcome["drops"] == []
    assert sorted(outcome["history"][0]["sites"]) == ["north", "south"]


def test_a_message_lost_on_its_way_is_not_waited_for(
    federation: Deployment, relay_and_proxy: tuple[Deployment, Relay, FaultProxy]
) -> None:
    """The SuperLink has handed it out; the answer that carried it is replaced by an error."""
    proxy = relay_and_proxy[2]
    overrides = (*SLOW, "train.local_steps=2", "name=lost")
    done = state(federation, "south", "executor")["tasks_done"]
    command = [str(SCRIPTS / "server"), "run", "--home", str(federation.home), *overrides]
    run = subprocess.Popen(
        command,
        cwd=federation.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: state(federation, "south", "executor")["tasks_done"] > done, 90, "the run has begun")
    began = time.monotonic()
    proxy.fail("pull-messages", 502, times=1, after=True)
    outcome = report(federation, "lost", run)
    assert time.monotonic() - began < 100, "nobody waited for the deadline"
    assert sorted(outcome["history"][0]["sites"]) == ["north", "south"]
