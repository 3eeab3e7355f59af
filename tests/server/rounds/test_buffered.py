"""Rounds that end with the first updates: who is late counts less, nobody is asked twice, faults are named."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import UserConfig

from client.app import NODE_CONFIG_KEY, client_app
from client.site.config import SiteConfig
from privacy.wire.messages import Reply, TrainTask
from server.config.schedule import train_task
from server.rounds.buffered import STALENESS, BufferedSteps
from server.rounds.result import QuorumError
from server.rounds.steps import Link, TrainRules
from server.sites.attendance import Register
from server.sites.exchange import Answer
from server.strategy.choose import Joining
from server.strategy.update_sum import UpdateRejectedError
from simulations.engine.faults import Fault, add_faults
from simulations.engine.quadratic import QuadraticTraining, centre, run_quadratic, write_sites
from tests.builders.run_config import aggregate_config, plain_run, rounds_config, train_config

PATIENTS = {"alpha": 5, "beta": 2, "gamma": 9}
ROUNDS = rounds_config(
    count=6, min_sites=2, buffer=2, deadline_s=20.0, wait_for_sites_s=20.0, attempts=2, evaluate_every=0
)
CONFIG = plain_run(
    rounds=ROUNDS, train=train_config(local_steps=3, lr=0.3), aggregate=aggregate_config(weighting="equal")
)


@pytest.fixture
def nodes(tmp_path: Path) -> list[UserConfig]:
    return write_sites(tmp_path, PATIENTS)


def slow_gamma(site: str, number: int) -> float:
    """Gamma's first task takes as long as three or four rounds of the others."""
    return (1.2 if number == 1 else 0.0) if site == "gamma" else 0.3


def test_a_late_update_counts_less_in_the_round_that_it_comes_to(tmp_path: Path, nodes: list[UserConfig]) -> None:
    asked: list[tuple[str, int]] = []

    class Noted(QuadraticTraining):
        def train_round(self, site, spec_json, vector, task: TrainTask):  # type: ignore[no-untyped-def]
            asked.append((site.site, task.round))
            return super().train_round(site, spec_json, vector, task)

    app = client_app(Noted(64, delay=slow_gamma))
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=app, workers=3)
    assert [len(record.sites) for record in result.history] == [2] * 6
    late = next(record for record in result.history if "gamma" in record.sites)  # with its task of round 1
    behind = late.round - 1
    assert behind >= 1
    assert late.per_site["gamma"][STALENESS] == behind
    alone, _ = QuadraticTraining(64).train_round(
        site_config("gamma", nodes), "", np.zeros(64, np.float32), train_task(CONFIG, 1, "")
    )
    assert late.norms["gamma"] == pytest.approx(float(np.linalg.norm(alone)) / (1 + behind) ** 0.5, rel=1e-5)
    assert len(set(asked)) == len(asked), "nobody is asked for a round that is still under way there"
    assert ("gamma", 2) not in asked


def site_config(name: str, nodes: list[UserConfig]) -> SiteConfig:
    return next(
        site for site in (SiteConfig.load(Path(str(node[NODE_CONFIG_KEY]))) for node in nodes) if site.site == name
    )


def test_it_ends_near_the_optimum_as_rounds_that_wait_do(tmp_path: Path, nodes: list[UserConfig]) -> None:
    app = client_app(QuadraticTraining(64, delay=lambda site, _: 0.05 if site == "gamma" else 0.0))
    config = replace(CONFIG, rounds=replace(ROUNDS, count=60), train=train_config(local_steps=5, lr=0.1))
    result = run_quadratic(tmp_path / "out", config, nodes, app=app, workers=3)
    sites = [centre(site, 64) for site in PATIENTS]
    assert np.abs(result.vector - np.mean(sites, axis=0)).mean() < np.abs(sites[0] - sites[1]).mean()
    assert any("gamma" in record.sites for record in result.history)


def test_a_fast_site_that_fails_is_named_and_the_round_takes_the_others(
    tmp_path: Path, nodes: list[UserConfig]
) -> None:
    faulty = add_faults(client_app(QuadraticTraining(64)), [Fault(what="nan", site="alpha")])
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=faulty, workers=3)
    assert all(set(record.sites) == {"beta", "gamma"} for record in result.history)
    assert {drop.reason for record in result.history for drop in record.drops} == {"not_finite"}
    both = [Fault(what="nan", site=site) for site in ("alpha", "beta")]
    with pytest.raises(QuorumError, match="fewer than 2 usable answers"):
        run_quadratic(tmp_path / "none", CONFIG, nodes, app=add_faults(client_app(QuadraticTraining(64)), both))


def test_scores_come_from_those_who_are_not_at_work(tmp_path: Path, nodes: list[UserConfig]) -> None:
    config = replace(CONFIG, rounds=replace(ROUNDS, count=2, evaluate_every=1))
    app = client_app(QuadraticTraining(64, delay=lambda site, _: 3.0 if site == "gamma" else 0.0))
    started = time.monotonic()
    result = run_quadratic(tmp_path / "out", config, nodes, app=app, workers=3)
    assert time.monotonic() - started < 2.9 + 5.0  # leaving the grid waits for gamma's thread
    for record in result.history:
        assert record.evaluation is not None
        assert set(record.evaluation.per_site) == {"alpha", "beta"}


@pytest.mark.parametrize(("length", "admitted", "reason"), [(10.5, True, "norm_exceeded"), (1.0, False, "wrong_name")])
def test_a_late_update_obeys_the_limit_at_full_length_and_its_site_must_still_be_admitted(
    tmp_path: Path, length: float, admitted: bool, reason: str
) -> None:
    """Discounted, a vector of 10.5 would pass a limit of 10."""
    (tmp_path / "nodes.json").write_text(json.dumps({"gamma": {"node_id": "7"}} if admitted else {}))
    link = Link(grid=None, run_id="", spec_json="", manifest_hash="", register=Register(tmp_path / "nodes.json"))  # type: ignore[arg-type]
    rules = TrainRules(
        deadline_s=1.0, joining=Joining(config=CONFIG.aggregate, max_norm=10.0), by_patients=False, attempt=1
    )
    vector = np.array([length, 0.0], np.float32)
    answer = Answer(node=7, site="gamma", reply=Reply(kind="train", site="gamma", round=1, vector=vector, patients=1))
    with pytest.raises(UpdateRejectedError) as caught:
        BufferedSteps(link, 2)._check(answer, rules, 2)
    assert caught.value.reason == reason
