"""Retries: a final refusal is asked once, a site that comes and goes is given time, and what is waited for is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import client_app
from privacy.wire.messages import Refusal, Reply, reply
from server.rounds.loop import run_federation
from server.rounds.result import QuorumError
from server.rounds.retries import pause_s
from server.sites.attendance import ANYONE
from server.sites.dialect import DialectGrid
from shared_model.core.errors import InputError
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, run_quadratic, write_sites
from simulations.engine.run import LocalGrid
from tests.builders.run_config import plain_run, rounds_config, train_config

PATIENTS = {"alpha": 5, "beta": 2, "gamma": 9}
FAST = rounds_config(
    count=4, min_sites=2, deadline_s=20.0, wait_for_sites_s=1.0, wait_for_return_s=1.0, attempts=3, evaluate_every=0
)
CONFIG = plain_run(rounds=FAST, train=train_config(local_steps=1, lr=0.3))


class Counted(QuadraticTraining):
    """Counts the training that each site is asked for; gamma's data cannot be read while ``broken``."""

    def __init__(self) -> None:
        super().__init__(64)
        self.asked: list[tuple[str, int]] = []
        self.broken = True

    def train_round(self, site, spec_json, vector, task):  # type: ignore[no-untyped-def]
        self.asked.append((site.site, task.round))
        if self.broken and site.site == "gamma":
            raise InputError("case p1: unreadable")
        return super().train_round(site, spec_json, vector, task)


@pytest.fixture
def nodes(tmp_path: Path):  # type: ignore[no-untyped-def]
    return write_sites(tmp_path, PATIENTS)


def test_a_site_that_refuses_for_good_is_asked_once_and_the_others_go_on(tmp_path: Path, nodes) -> None:  # type: ignore[no-untyped-def]
    training = Counted()
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=client_app(training))
    assert [set(record.sites) for record in result.history] == [{"alpha", "beta"}] * 4
    assert [number for site, number in training.asked if site == "gamma"] == [1]


def test_where_all_are_needed_a_final_refusal_costs_the_others_one_release(tmp_path: Path, nodes) -> None:  # type: ignore[no-untyped-def]
    """Before, good sites paid for each of three attempts within 10 s, though the third had said a final word."""
    training, events = Counted(), []
    config = replace(CONFIG, rounds=replace(FAST, min_sites=3, wait_for_sites_s=7.0))
    with pytest.raises(QuorumError, match=r"gamma: refused \(data\)"):
        run_quadratic(tmp_path / "out", config, nodes, app=client_app(training), on_event=events.append)
    assert sorted(training.asked) == [("alpha", 1), ("beta", 1), ("gamma", 1)]
    waits = [event.detail for event in events if event.kind == "waiting"]
    assert waits
    assert all("2 of at least 3 sites" in wait and "gamma: refused (data)" in wait for wait in waits)
    training.broken = False
    assert run_quadratic(tmp_path / "out", config, nodes, app=client_app(training)).rounds == 4


def test_the_next_attempt_begins_when_enough_sites_have_stayed(tmp_path: Path, nodes) -> None:  # type: ignore[no-untyped-def]
    class Flickering(LocalGrid):
        """gamma's training fails once; then gamma comes and goes with every second look, for 30 looks."""

        looks, failed = 0, False

        def get_node_ids(self):  # type: ignore[no-untyped-def]
            everyone = list(super().get_node_ids())
            if not self.failed:
                return everyone
            self.looks += 1
            return everyone if self.looks % 2 or self.looks > 30 else everyone[:2]

    grids: list[Flickering] = []

    class Once(Counted):
        def train_round(self, site, spec_json, vector, task):  # type: ignore[no-untyped-def]
            self.asked.append((site.site, task.round))
            if site.site == "gamma" and not grids[0].failed:
                grids[0].failed = True
                raise RuntimeError("stopped")
            return QuadraticTraining.train_round(self, site, spec_json, vector, task)

    training = Once()
    config = replace(CONFIG, rounds=replace(FAST, count=1, min_sites=3, wait_for_sites_s=30.0))
    with Flickering(client_app(training), nodes) as grid:
        grids.append(grid)
        result = run_federation(grid, config, SPEC_JSON, MANIFEST_HASH, np.zeros(64, np.float32), tmp_path / "out")
        assert grid.looks > 30
    assert result.history[0].attempt == 2, "one more attempt was enough: none was spent on a site that was just leaving"


def test_pauses_grow_and_stay_below_the_time_that_sites_are_waited_for() -> None:
    assert [pause_s(tried, 600.0) for tried in (1, 2, 3, 4, 5)] == [0.0, 10.0, 40.0, 160.0, 300.0]
    assert pause_s(1000, 600.0) == 300.0


def test_a_site_of_the_version_before_takes_part(tmp_path: Path, nodes) -> None:  # type: ignore[no-untyped-def]
    """beta knows schema 1 alone: it refuses the first two requests and is asked again in its own schema."""
    inner, seen = client_app(QuadraticTraining(64)), []

    def older(message, context):  # type: ignore[no-untyped-def]
        head = message.content["head"]
        if not context.node_config["site-config"].endswith("beta.yaml"):
            assert head["schema"] == 3
            return inner(message, context)
        seen.append(head["schema"])
        answer = inner(message, context)
        if head["schema"] != 1:
            refusal = Reply(kind=head["kind"], site="beta", round=0, refusal=Refusal(code="schema"), schema=1)
            answer.content = reply(refusal)
        else:
            assert "instance" not in answer.content["head"]
        return answer

    config = replace(CONFIG, rounds=replace(FAST, count=2, min_sites=3, wait_for_sites_s=5.0))
    with LocalGrid(older, nodes) as grid:
        vector = np.zeros(64, np.float32)
        dialect = DialectGrid(grid, ANYONE, None)
        result = run_federation(dialect, config, SPEC_JSON, MANIFEST_HASH, vector, tmp_path / "out")
    assert [set(record.sites) for record in result.history] == [set(PATIENTS)] * 2
    assert seen[:2] == [3, 2]
    assert set(seen[2:]) == {1}
