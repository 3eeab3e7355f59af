"""The round loop through the real client app, LocalGrid and a quadratic: results, quorum, resume, determinism."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import client_app
from server.config.groups import TrainConfig
from server.config.run import RunConfig
from server.config.schedule import round_lr, round_stage
from server.rounds.loop import run_federation
from server.rounds.result import FederationResult, QuorumError
from shared_model.core.errors import InputError
from simulations.engine.faults import Fault, add_faults
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, centre, run_quadratic, write_sites
from simulations.engine.run import LocalGrid
from tests.builders.run_config import aggregate_config, plain_run, rounds_config, train_config

PATIENTS = {"alpha": 5, "beta": 2, "gamma": 9}
FAST = rounds_config(count=4, min_sites=2, deadline_s=20.0, wait_for_sites_s=20.0, attempts=2)
CONFIG = plain_run(rounds=FAST, train=train_config(local_steps=3, lr=0.3))


@pytest.fixture
def nodes(tmp_path):
    return write_sites(tmp_path, PATIENTS)


def sha(result: FederationResult) -> str:
    return hashlib.sha256(result.vector.tobytes()).hexdigest()


def test_converges_to_the_mean_of_the_centres_weighted_by_patients(tmp_path, nodes):
    rounds = replace(FAST, count=30)
    config = replace(CONFIG, rounds=rounds, train=train_config(local_steps=10, lr=0.5, lr_final_fraction=1.0))
    result = run_quadratic(tmp_path / "out", config, nodes)
    optimum = sum(n * centre(site, 64).astype(np.float64) for site, n in PATIENTS.items()) / sum(PATIENTS.values())
    assert np.abs(result.vector - optimum).max() < 0.02
    evaluation = result.history[-1].evaluation
    per_site = [evaluation.per_site[site]["loss"] for site in PATIENTS]
    assert evaluation.patients == dict.fromkeys(PATIENTS, 1), "weighted by the patients who were scored"
    assert evaluation.metrics["loss"] == pytest.approx(sum(per_site) / 3)
    assert result.sites == PATIENTS
    assert result.wire_bytes_per_round > 2 * 3 * 64 * 4


def test_one_round_equals_the_plain_weighted_mean_of_the_updates(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(FAST, count=1), train=train_config(local_steps=1, lr=1.0))
    result = run_quadratic(tmp_path / "out", config, nodes)
    updates = []
    for site, weight in PATIENTS.items():
        noise = np.random.default_rng([0, 1, *site.encode()]).standard_normal(64, dtype=np.float32)
        updates.append(weight * (centre(site, 64) - 0.01 * noise).astype(np.float64))
    np.testing.assert_allclose(result.vector, sum(updates) / 16, atol=2e-7)


def test_equal_weighting_counts_each_site_once(tmp_path, nodes):
    config = replace(CONFIG, aggregate=aggregate_config(weighting="equal"))
    result = run_quadratic(tmp_path / "out", config, nodes)
    assert result.history[0].sites == {"alpha": 1, "beta": 1, "gamma": 1}


@pytest.mark.parametrize("aggregate", [aggregate_config(), aggregate_config(name="fedadam", lr=0.1)])
def test_same_hash_for_any_number_of_workers_and_any_order_of_replies(tmp_path, nodes, aggregate):
    config = replace(CONFIG, aggregate=aggregate)
    first = run_quadratic(tmp_path / "a", config, nodes)
    two = run_quadratic(tmp_path / "b", config, nodes, workers=2)

    def shuffled(site: str, round_number: int) -> float:
        return 0.03 * ((sum(site.encode()) + round_number) % 3)

    late = client_app(QuadraticTraining(64, delay=shuffled))
    order: list[str] = []
    three = run_quadratic(
        tmp_path / "c",
        config,
        list(reversed(nodes)),
        workers=3,
        app=late,
        on_event=lambda e: order.append(e.site) if e.kind == "site_done" else None,
    )
    assert order[:3] != sorted(order[:3]) or order[6:9] != sorted(order[6:9]), "the replies did come in another order"
    assert sha(first) == sha(two) == sha(three)
    assert first.history[-1].metrics == three.history[-1].metrics
    assert sha(run_quadratic(tmp_path / "d", replace(config, seed=1), nodes)) != sha(first)


SCRIPT = """
import sys, json
from pathlib import Path
from client.app import client_app
from server.config.run import RunConfig
from simulations.engine.quadratic import QuadraticTraining, run_quadratic
out, config, nodes = Path(sys.argv[1]), RunConfig.from_json(sys.argv[2]), json.loads(sys.argv[3])
app = client_app(QuadraticTraining(20_000, delay=lambda site, number: 0.03))
run_quadratic(out, config, nodes, size=20_000, app=app)
"""


def start(out: Path, config: RunConfig, nodes) -> subprocess.Popen:
    arguments = [sys.executable, "-c", SCRIPT, str(out), config.to_json(), json.dumps(nodes)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def test_resumes_after_kill_9_at_random_moments_and_ends_with_the_same_hash(tmp_path, nodes):
    rounds = replace(FAST, count=8, evaluate_every=3)
    config = replace(CONFIG, rounds=rounds, aggregate=aggregate_config(name="fedadam", lr=0.1))
    whole = run_quadratic(tmp_path / "whole", config, nodes, size=20_000, app=client_app(QuadraticTraining(20_000)))
    out, kills = tmp_path / "killed", 0
    events = out / "events.jsonl"
    for extra_s in (0.0, 0.11, 0.23, 0.05):
        seen = events.read_text().count("round_done") if events.exists() else 0
        process = start(out, config, nodes)
        while process.poll() is None:
            if events.exists() and events.read_text().count("round_done") > seen:
                time.sleep(extra_s)  # anywhere in the rounds that follow: training, evaluation, checkpoint
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    last = start(out, config, nodes)
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert kills >= 3
    again = run_quadratic(out, config, nodes, size=20_000, app=client_app(QuadraticTraining(20_000)))
    assert again.resumed_from == 8, "a finished run trains no more"
    assert sha(again) == sha(whole)
    assert [r.round for r in again.history] == list(range(1, 9))
    assert [r.round for r in again.history if r.evaluation is not None] == [3, 6, 8]


def test_another_configuration_in_the_same_folder_is_refused_and_nothing_is_written_over(tmp_path, nodes):
    out = tmp_path / "out"
    run_quadratic(out, CONFIG, nodes)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="another configuration"):
        run_quadratic(out, replace(CONFIG, train=train_config(local_steps=3, lr=0.2)), nodes)
    with pytest.raises(InputError, match="another configuration"):
        run_quadratic(out, CONFIG, nodes, size=65, app=client_app(QuadraticTraining(65)))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_stopped_for_want_of_sites_goes_on_with_more_patience(tmp_path, nodes):
    rounds = replace(FAST, min_sites=3, deadline_s=1.0)
    config = replace(CONFIG, rounds=rounds)
    app = client_app(QuadraticTraining(64, delay=lambda site, n: 1.5 if (site, n) == ("beta", 3) else 0.0))
    seen: list = []
    with pytest.raises(QuorumError, match=r"round 3: fewer than 3 .*beta: timeout") as caught:
        run_quadratic(tmp_path / "out", config, nodes, workers=3, app=app, on_event=seen.append)
    assert "\n" not in str(caught.value)
    assert sum(event.kind == "round_failed" for event in seen) == 2, "tried as often as configured"
    patient = replace(config, rounds=replace(rounds, deadline_s=20.0))
    result = run_quadratic(tmp_path / "out", patient, nodes, workers=3, app=app)
    assert result.resumed_from == 2
    assert sha(result) == sha(run_quadratic(tmp_path / "plain", config, nodes))


def test_too_few_sites_stop_the_run_with_a_clear_error(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(FAST, min_sites=4, wait_for_sites_s=0.1))
    with pytest.raises(QuorumError, match="3 sites connected"):
        run_quadratic(tmp_path / "out", config, nodes)


def test_a_round_that_fails_once_is_repeated_and_the_result_is_the_same(tmp_path, nodes):
    strikes = iter([True])

    class Once(Fault):
        def strikes(self, site, kind, round_number):
            return (site, kind, round_number) == ("beta", "train", 2) and next(strikes, False)

    config = replace(CONFIG, rounds=replace(FAST, min_sites=3))
    app = add_faults(client_app(QuadraticTraining(64)), [Once(what="nan", site="beta")])
    result = run_quadratic(tmp_path / "out", config, nodes, app=app)
    assert result.history[1].attempt == 2
    assert [(d.site, d.reason, d.attempt) for d in result.history[1].drops] == [("beta", "not_finite", 1)]
    assert sha(result) == sha(run_quadratic(tmp_path / "plain", config, nodes))


def test_two_nodes_with_one_name_count_once(tmp_path, nodes):
    result = run_quadratic(tmp_path / "out", CONFIG, [*nodes, nodes[1]])
    assert [(drop.site, drop.reason) for drop in result.drops] == [("beta", "duplicate")]
    assert result.history[0].sites == PATIENTS


def test_a_site_that_joins_late_takes_part_from_the_next_round(tmp_path, nodes):
    class Growing(LocalGrid):
        asked = 0

        def get_node_ids(self):
            self.asked += 1
            everyone = list(super().get_node_ids())
            return everyone if self.asked > 8 else everyone[:2]

    with Growing(client_app(QuadraticTraining(64)), nodes) as grid:
        out = tmp_path / "out"
        config = replace(CONFIG, rounds=replace(FAST, count=8))
        result = run_federation(grid, config, SPEC_JSON, MANIFEST_HASH, np.zeros(64, np.float32), out)
    assert set(result.history[0].sites) == {"alpha", "beta"}
    assert set(result.history[-1].sites) == set(PATIENTS)


def test_learning_rate_falls_by_half_a_cosine():
    train = train_config(lr=1.0, lr_final_fraction=0.1)
    rates = [round_lr(train, n, 5) for n in range(1, 6)]
    np.testing.assert_allclose(rates, [1.0, 0.868198, 0.55, 0.231802, 0.1], atol=1e-6)
    assert round_lr(train, 1, 1) == 1.0


@pytest.mark.parametrize("initial", [np.zeros(3), np.zeros((2, 2), np.float32), np.full(3, np.nan, np.float32)])
def test_a_bad_initial_vector_is_refused(tmp_path, nodes, initial):
    with (
        LocalGrid(client_app(QuadraticTraining(3)), nodes) as grid,
        pytest.raises(InputError, match="initial vector"),
    ):
        run_federation(grid, CONFIG, SPEC_JSON, MANIFEST_HASH, initial, tmp_path / "out")


def test_a_site_with_another_model_is_named(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(FAST, wait_for_sites_s=0.2))
    with pytest.raises(QuorumError, match=r"alpha: refused \(wrong_model\)"):
        run_quadratic(tmp_path / "out", config, nodes, size=65, app=client_app(Other(64)))


class Other(QuadraticTraining):
    def model(self, spec_json):
        return "f" * 64, 64


def test_stage_a_comes_first_and_its_curriculum_ends_with_all_conditions() -> None:
    train = train_config(any2any_share=0.5, curriculum="rising")
    plan = [round_stage(train, number, 10) for number in range(1, 11)]
    assert plan[:5] == [("any2any", pytest.approx(least)) for least in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert plan[5:] == [("dose", 0.0)] * 5


@pytest.mark.parametrize(
    ("train", "stages"),
    [
        (train_config(), [("dose", 0.0)] * 3),
        (train_config(stage="any2any"), [("any2any", 0.0)] * 3),
        (train_config(stage="any2any", curriculum="rising"), [("any2any", 0.0), ("any2any", 0.5), ("any2any", 1.0)]),
        (train_config(any2any_share=0.3, curriculum="rising"), [("any2any", 1.0), ("dose", 0.0), ("dose", 0.0)]),
    ],
)
def test_stages_of_three_rounds(train: TrainConfig, stages: list[tuple[str, float]]) -> None:
    assert [round_stage(train, number, 3) for number in (1, 2, 3)] == stages


def test_rounds_of_the_base_come_first_with_a_learning_rate_of_their_own() -> None:
    train = train_config(lr=1.0, lr_final_fraction=0.1, base_rounds=3, base_lr=2.0, any2any_share=0.5)
    plan = [(*round_stage(train, n, 7), round_lr(train, n, 7)) for n in range(1, 8)]
    assert [stage for stage, _, _ in plan] == ["base"] * 3 + ["any2any"] * 2 + ["dose"] * 2
    assert [rate for _, _, rate in plan] == pytest.approx([2.0, 1.1, 0.2, 1.0, 0.775, 0.325, 0.1])


@pytest.mark.parametrize(("base", "rounds"), [("phantom", 0), ("phantom", 16), ("none", 1)])
def test_rounds_of_the_base_belong_to_a_base_that_trains(base: str, rounds: int) -> None:
    with pytest.raises(InputError, match="base_rounds"):
        plain_run(model={"base": base}, train=train_config(base_rounds=rounds))
