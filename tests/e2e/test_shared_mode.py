"""Mode shared over TLS: four hospitals under a pinned plan, one killed in the middle, and what each of them has paid.

All keys have a passphrase, so that a site's executor needs it to sign with the identity.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from privacy.dp.accountant import epsilon
from privacy.trust.passphrase import TEXT
from server.config.run import RunConfig
from server.record.history import RoundRecord
from server.rounds.advance import replay
from server.runs.index import Tail
from shared_model.adapter.manifest import initial_vector, load_adapter, stage_mask, vector_hash
from shared_model.bundled import PUBLIC_CASES
from shared_model.network.spec import ModelSpec
from shared_model.prediction.public_check import PublicCheck, public_cases
from tests.e2e.conftest import TINY, renamed
from tests.e2e.deployment import SCRIPTS, Deployment, change_policy, eventually, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMES = ("north", "south", "east", "west")
Z = 6.0
BUDGET = epsilon({(Z, 1.0): 5}, 1e-5) + 1e-6
RUN = (
    "name=private",
    "privacy.mode=shared",  # the default
    f"privacy.z={Z}",
    "privacy.cohort=8",
    "rounds.count=4",
    *TINY,
)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[Deployment]:
    """A coordinator and four hospitals that have accepted one plan and let nothing out but noised releases."""
    folder = tmp_path_factory.mktemp("shared")
    deployment = Deployment(folder)
    deployment._environment[TEXT] = "a dozen hedgehogs"
    hospitals = {**hospitals, "west": renamed(hospitals["east"], "west", folder)}
    try:
        deployment.start_coordinator()
        for name in NAMES:
            deployment.admit(name, deployment.make_site(name, hospitals[name], "shared"))
        deployment.must("server", "plan", "--home", deployment.home, *RUN)
        deployment.compare_keys(*NAMES)
        for name in NAMES:
            # Private releases under an accepted plan and nothing else; the budget is that of six.
            change_policy(deployment.site(name), "require_plan: false", "require_plan: true")
            change_policy(deployment.site(name), "known_peers: false", "known_peers: true")
            change_policy(deployment.site(name), "max_epsilon: 8.0", f"max_epsilon: {BUDGET}")
            plan = deployment.home / "plan.json"
            deployment.must("client", "plan", "--home", deployment.site(name), "--accept", plan)
            deployment.spawn("client", deployment.site(name))
        for name in NAMES:
            deployment.connected(name)
        yield deployment
    finally:
        deployment.close()


@pytest.fixture(scope="module")
def outcome(consortium: Deployment) -> dict[str, Any]:
    """The run's outcome; after its first round one hospital was killed."""
    run = subprocess.Popen(
        [str(SCRIPTS / "server"), "run", "--home", str(consortium.home), "--json", *RUN],
        env=consortium._environment,
        cwd=consortium.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    events = consortium.home / "runs" / "private" / "events.jsonl"
    eventually(
        lambda: run.poll() is not None or any(e["kind"] == "round_done" for e in Tail(events, from_start=True).new()),
        180,
        "the first round is done",
    )
    for pid in consortium.children(consortium.site("west")).values():
        os.kill(pid, signal.SIGSTOP)  # silent, and yet connected for the time being: it is asked, and never answers
    told, errors = run.communicate(timeout=360)
    for pid in consortium.children(consortium.site("west")).values():
        os.kill(pid, signal.SIGCONT)
    assert run.returncode == 0, errors
    return dict(json.loads(told))


def test_the_run_ends_without_the_hospital_that_dropped_out(outcome: dict[str, Any]) -> None:
    report = outcome["report"]
    assert set(report["sites"]) == set(NAMES)
    took_part = [sorted(entry["sites"]) for entry in report["history"]]
    assert took_part[0] == sorted(NAMES)
    assert took_part[-1] == ["east", "north", "south"]
    assert {drop["site"] for drop in report["drops"]} == {"west"}
    assert all(entry["metrics"] == {} for entry in report["history"])


def test_each_ledger_has_what_its_hospital_released(consortium: Deployment, outcome: dict[str, Any]) -> None:
    history = outcome["report"]["history"]
    for name in NAMES:
        told = json.loads(consortium.must("client", "budget", "--home", consortium.site(name), "--json"))
        counted = sum(name in entry["sites"] for entry in history)
        [[_, mode, releases]] = told["runs"]
        # What never arrived, or came too late, was paid for too.
        assert mode == "shared"
        assert counted <= releases <= 4
        assert told["spent"]["epsilon"] == pytest.approx(epsilon({(Z, 1.0): releases}, 1e-5), abs=1e-6)
        alone = epsilon({(Z / 2**0.5, 1.0): releases}, 1e-5)
        assert told["spent"]["epsilon_alone"] == pytest.approx(alone, abs=1e-6)


def test_report_and_published_card_say_what_it_cost(
    consortium: Deployment, outcome: dict[str, Any], tmp_path: Path
) -> None:
    consortium.must("server", "publish", tmp_path / "public", "--home", consortium.home, "--run", "private")
    card = read(tmp_path / "public" / "adapter.json")
    for told in (outcome["report"]["privacy"], card["privacy"]):
        assert (told["mode"], told["delta"], told["z"], told["q"]) == ("shared", 1e-5, Z, 1.0)
        assert 4 <= told["steps"] <= 6
        assert told["epsilon"] == pytest.approx(epsilon({(Z, 1.0): told["steps"]}, 1e-5), abs=1e-3)
        assert told["epsilon_all_others_collude"] > told["epsilon"]
    assert set(card["sites"]) == {"site-1", "site-2", "site-3", "site-4"}


def test_the_kept_sums_give_the_adapter(outcome: dict[str, Any]) -> None:
    config = RunConfig.from_json(json.dumps(outcome["report"]["config"]))
    spec = ModelSpec.from_json(json.dumps(config.model))
    history = [RoundRecord.from_plain(entry) for entry in outcome["report"]["history"]]
    masks = partial(stage_mask, spec)
    vector = replay(Path(outcome["out"]), config, initial_vector(spec), masks, history)
    assert vector_hash(vector) == outcome["report"]["adapter_sha256"]
    assert load_adapter(Path(outcome["adapter"]))[1].tobytes() == vector.tobytes()
    # Every round was judged on public patients, and whoever has the sums can judge again.
    judged = history[-1].public
    assert judged is not None
    assert PublicCheck(spec, public_cases(PUBLIC_CASES))(vector, "dose") == pytest.approx(judged.stands_gy, rel=1e-3)


def test_a_coordinator_cannot_have_a_run_without_privacy(consortium: Deployment, outcome: dict[str, Any]) -> None:
    plain = [each.replace("privacy.mode=shared", "privacy.mode=none") for each in RUN]
    refused = consortium.command(
        "server", "run", "--home", consortium.home, *plain, "name=plain", "rounds.attempts=1", "rounds.count=1"
    )
    assert refused.returncode != 0
    assert "privacy terms are not those" in refused.stderr


def test_a_budget_that_is_spent_ends_it(consortium: Deployment, outcome: dict[str, Any]) -> None:
    """The plan may be run once more; the ledgers span both runs, and some release of the second is refused."""
    refused = consortium.command(
        *("server", "run", "--home", consortium.home, *RUN, "rounds.wait_for_return_s=20"),
        *("--out", consortium.folder / "again"),
        timeout_s=300,
    )
    assert refused.returncode != 0
    assert "max_epsilon: this site's privacy budget is spent" in refused.stderr
    for name in ("north", "south", "east"):
        told = json.loads(consortium.must("client", "budget", "--home", consortium.site(name), "--json"))
        assert told["spent"]["epsilon"] <= BUDGET
