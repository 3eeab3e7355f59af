"""Rounds that make public patients worse are taken back, and a run that only gets worse ends."""

import json
from dataclasses import replace

import numpy as np
import pytest

from client.app import client_app
from privacy.dp.ledger import SiteLedger
from server.record.history import PublicVerdict, RoundRecord
from server.record.journal import Journal
from server.rounds.advance import replay
from server.rounds.public_gate import PublicGate, public_summary, stop_reason
from server.runs.show import rounds_table
from shared_model.core.errors import InputError
from simulations.engine.faults import PoisonedTraining
from simulations.engine.quadratic import QuadraticTraining, centre, run_quadratic, write_sites
from tests.builders.run_config import aggregate_config, plain_run, privacy_config, rounds_config, train_config

PATIENTS = {"alpha": 50, "beta": 20, "delta": 40, "gamma": 90}
ROUNDS = rounds_config(
    count=6, min_sites=3, deadline_s=20.0, wait_for_sites_s=20.0, attempts=1, evaluate_every=0, public_step=1.05
)
# Little noise, and few enough rounds that honest ones still gain more than it adds.
SHARED = privacy_config(mode="shared", z=0.1, clip=12.0, cohort=200, sites=4)
TRAIN = train_config(local_steps=1, lr=0.5, lr_final_fraction=1.0)
CONFIG = plain_run(rounds=ROUNDS, train=TRAIN, privacy=SHARED)
GOAL = sum(n * centre(site, 64).astype(float) for site, n in PATIENTS.items()) / 200


def distance(vector: np.ndarray, _stage: str) -> float:
    """What public patients would say of a quadratic: how far from the honest optimum."""
    return float(np.linalg.norm(vector - GOAL))


def everything(_stage: str) -> np.ndarray:
    return np.ones(64, dtype=bool)


def poisoned(factor: float, rounds: tuple[int, ...] = ()):
    return client_app(PoisonedTraining(QuadraticTraining(64), site="alpha", factor=factor, rounds=rounds))


@pytest.fixture
def nodes(tmp_path):
    return write_sites(tmp_path, PATIENTS)


def test_an_honest_run_is_left_alone_and_says_what_it_was_judged_by(tmp_path, nodes):
    seen = []
    config = replace(CONFIG, rounds=replace(ROUNDS, count=4))
    result = run_quadratic(tmp_path / "out", config, nodes, check=distance, on_event=seen.append)
    assert (result.rounds, result.stopped) == (4, "")
    told = [record.public for record in result.history]
    assert told[0].before_gy == pytest.approx(np.linalg.norm(GOAL))
    assert [v.before_gy for v in told[1:]] == [v.after_gy for v in told[:-1]]
    assert told[-1].after_gy < 0.2 * told[0].before_gy
    assert seen[-1].kind == "finished"
    assert [e.metrics["public_gy"] for e in seen if e.kind == "round_done"] == [v.after_gy for v in told]


def test_rounds_with_poison_are_taken_back_and_the_others_count(tmp_path, nodes):
    bad = (2, 5)
    seen = []
    result = run_quadratic(
        tmp_path / "out", CONFIG, nodes, app=poisoned(-4.0, bad), check=distance, on_event=seen.append
    )
    assert [r.round for r in result.history if r.rolled_back] == list(bad)
    assert [e.round for e in seen if e.kind == "rolled_back"] == list(bad)
    assert (result.rounds, result.stopped) == (6, "")
    report = public_summary(result.history)
    assert (report["taken_back"], report["stopped"]) == (list(bad), "")
    assert report["end_gy"] == pytest.approx(distance(result.vector, ""), abs=1e-3)
    without = run_quadratic(
        tmp_path / "open", replace(CONFIG, rounds=replace(ROUNDS, public_step=0.0)), nodes, app=poisoned(-4.0, bad)
    )
    assert distance(result.vector, "") < 0.5 * distance(without.vector, "")
    again = replay(tmp_path / "out", CONFIG, np.zeros(64, np.float32), everything, result.history)
    assert again.tobytes() == result.vector.tobytes()


def test_momentum_of_a_round_that_was_taken_back_is_gone(tmp_path, nodes):
    """The rounds after it are those that would have come without it."""
    config = replace(
        CONFIG, aggregate=aggregate_config(name="fedavgm", lr=0.5, beta1=0.3), rounds=replace(ROUNDS, count=4)
    )
    result = run_quadratic(tmp_path / "out", config, nodes, app=poisoned(-6.0, (2,)), check=distance)
    assert [r.round for r in result.history if r.rolled_back] == [2]
    again = replay(tmp_path / "out", config, np.zeros(64, np.float32), everything, result.history)
    assert again.tobytes() == result.vector.tobytes()


def test_a_check_that_fails_costs_the_sites_nothing(tmp_path, nodes):
    def broken(vector, _stage):
        raise InputError("cases.npz: no file of public patients")

    with pytest.raises(InputError, match="no file of public patients"):
        run_quadratic(tmp_path / "out", CONFIG, nodes, check=broken)
    assert not [path for path in (tmp_path / "ledgers").rglob("*") if path.is_file()]


def test_mode_none_is_judged_where_asked_and_scored_at_its_early_end(tmp_path, nodes):
    class Lies(QuadraticTraining):
        def train_round(self, site, spec_json, vector, task):
            update, metrics = super().train_round(site, spec_json, vector, task)
            return (-30 * update if site.site == "alpha" else update), metrics

    rounds = replace(ROUNDS, evaluate_every=5, public_step=1.05)
    config = replace(CONFIG, rounds=rounds, privacy=privacy_config(mode="none"))
    result = run_quadratic(tmp_path / "out", config, nodes, app=client_app(Lies(64)), check=distance)
    assert result.rounds == 3
    assert not result.vector.any()
    assert result.history[-1].evaluation is not None


def test_three_in_a_row_end_the_run_with_what_was_good(tmp_path, nodes):
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=poisoned(-4.0, (3, 4, 5, 6)), check=distance)
    assert result.rounds == 5
    assert "rounds 3 to 5 were taken back" in result.stopped
    assert distance(result.vector, "") == pytest.approx(result.history[1].public.after_gy)
    again = run_quadratic(tmp_path / "out", CONFIG, nodes, check=distance)
    assert (again.resumed_from, again.rounds) == (5, 5)
    assert again.vector.tobytes() == result.vector.tobytes()
    report = {
        "history": [r.to_plain() for r in result.history],
        "sites": PATIENTS,
        "public": public_summary(result.history),
    }
    table = rounds_table({**json.loads(json.dumps(report)), "privacy": {"mode": "none"}})
    assert "STOPPED: rounds 3 to 5" in table.caption
    assert public_summary(result.history)["stopped"] == result.stopped
    assert list(table.columns[0].cells)[2:] == ["3 taken back", "4 taken back", "5 taken back"]


def test_a_verdict_is_the_same_after_a_crash(tmp_path, nodes, monkeypatch):
    """A coordinator that dies between sum and checkpoint judges the kept sum as it would have."""
    saved = Journal.save

    def killed(self, state):
        if state.round == 4:
            raise KeyboardInterrupt
        saved(self, state)

    app = poisoned(-4.0, (2, 4))
    monkeypatch.setattr(Journal, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_quadratic(tmp_path / "out", CONFIG, nodes, app=app, check=distance)
    monkeypatch.undo()
    # Honest sites now: were they asked again, round 4 would stand.
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, check=distance)
    assert result.resumed_from == 3
    assert [r.round for r in result.history if r.rolled_back] == [2, 4]
    paid = [len(SiteLedger(folder=tmp_path / "ledgers" / site, delta=1e-5).entries()) for site in PATIENTS]
    assert paid == [6] * 4
    assert result.history[3].public.before_gy == result.history[2].public.after_gy


def gate(check, **rounds) -> PublicGate:
    config = replace(CONFIG, train=replace(TRAIN, base_rounds=2), model={"base": "phantom"})
    return PublicGate(replace(config, rounds=replace(ROUNDS, public_step=0.0, **rounds)), check)


def record(number: int, verdict: PublicVerdict) -> RoundRecord:
    return RoundRecord(
        round=number, lr=1.0, attempt=1, sites={}, norms={}, metrics={}, per_site={}, drops=(), wire_bytes=0,
        wall_s=0.0, public=verdict,
    )  # fmt: skip


def first(vector: np.ndarray, _stage: str) -> float:
    return float(vector[0])


def at(gy: float) -> np.ndarray:
    return np.array([gy], np.float32)


def test_slow_poison_meets_the_limit_against_the_best_round():
    judge, last, before, taken = gate(first, public_worst=1.2), None, 3.0, []
    for number in range(3, 9):
        verdict = judge.verdict(number, judge.standing(number, at(before), last), at(before * 1.04))
        taken.append(bool(verdict.why))
        last, before = record(number, verdict), verdict.stands_gy
    assert taken == [False] * 4 + [True] * 2  # 1.04^5 = 1.217
    assert before == pytest.approx(3.0 * 1.04**4, rel=1e-5)


def test_an_honest_best_round_tightens_it():
    judge = gate(first, public_worst=1.2)
    one = judge.verdict(3, judge.standing(3, at(10.0), None), at(5.0))
    standing = judge.standing(4, at(5.0), record(3, one))
    assert judge.verdict(4, standing, at(6.1)).why
    assert not judge.verdict(4, standing, at(5.9)).why


def test_the_base_and_the_rest_are_judged_apart():
    """The first round of another part starts from its own error, whatever the last part had reached."""
    asked = []

    def check(vector, stage):
        asked.append(stage)
        return float(vector[0]) * (10.0 if stage == "dose" else 1.0)

    judge = gate(check, public_worst=1.2)
    of_base = judge.verdict(2, judge.standing(2, at(3.0), None), at(2.0))
    whole = judge.verdict(3, judge.standing(3, at(2.0), record(2, of_base)), at(2.1))
    assert (of_base.best_gy, whole.before_gy, whole.best_gy) == (3.0, 20.0, 20.0)
    assert asked == ["base", "base", "dose", "dose"]


def test_only_rounds_in_a_row_end_a_run():
    bad, good = (
        PublicVerdict(before_gy=1, best_gy=1, after_gy=2, why="x"),
        PublicVerdict(before_gy=1, best_gy=1, after_gy=1),
    )
    history = [record(n, v) for n, v in enumerate((bad, bad, good, bad, bad), 1)]
    assert stop_reason(history) == ""
    assert stop_reason([*history, record(6, bad)])
    assert stop_reason([]) == ""


def test_a_record_of_an_earlier_version_is_read():
    plain = json.loads(json.dumps(record(1, PublicVerdict(before_gy=1, best_gy=1, after_gy=2)).to_plain()))
    assert RoundRecord.from_plain(plain).public.after_gy == 2
    del plain["public"]
    assert RoundRecord.from_plain(plain).public is None
