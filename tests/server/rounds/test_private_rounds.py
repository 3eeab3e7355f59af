"""Private modes through the real round loop, secure aggregation, client app and ledgers, on a quadratic."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import LEDGER_KEY, client_app
from privacy.dp.accountant import epsilon
from privacy.dp.encoding import RING_TYPES
from privacy.dp.ledger import SiteLedger
from privacy.dp.terms import PrivacyTerms
from server.config.privacy import privacy_line, privacy_report, releases, run_terms
from server.record.journal import Journal
from server.rounds.advance import replay
from server.rounds.result import FederationResult, QuorumError
from server.rounds.ring_sum import RingSum
from shared_model.core.errors import FedKT3DError, InputError
from simulations.engine.faults import Fault, add_faults
from simulations.engine.quadratic import QuadraticTraining, centre, run_quadratic, write_sites
from tests.builders.run_config import aggregate_config, plain_run, privacy_config, rounds_config, train_config

PATIENTS = {"alpha": 5, "beta": 2, "delta": 4, "gamma": 9}
ROUNDS = rounds_config(count=3, min_sites=3, deadline_s=20.0, wait_for_sites_s=20.0, attempts=2, evaluate_every=0)
SHARED = privacy_config(mode="shared", z=4.0, clip=10.0, cohort=20, sites=4)
CONFIG = plain_run(rounds=ROUNDS, train=train_config(local_steps=1, lr=0.5, lr_final_fraction=1.0), privacy=SHARED)


@pytest.fixture
def nodes(tmp_path):
    return write_sites(tmp_path, PATIENTS)


def everything(_stage: str) -> np.ndarray:
    return np.ones(64, dtype=bool)


def ledger(tmp_path: Path, site: str) -> SiteLedger:
    return SiteLedger(folder=tmp_path / "ledgers" / site, delta=1e-5)


def test_a_shared_step_is_the_mean_over_the_declared_cohort(tmp_path, nodes):
    """With little noise the step is lr times the mean of the patients' directions; with the terms' noise it varies."""
    config = replace(CONFIG, rounds=replace(ROUNDS, count=1), privacy=replace(SHARED, z=0.1))
    result = run_quadratic(tmp_path / "out", config, nodes)
    step = 0.5 * sum(n * centre(site, 64).astype(float) for site, n in PATIENTS.items()) / 20
    noise = 0.5 * 0.1 * 10.0 * np.sqrt(4 / 2) / 20
    error = result.vector - step
    assert np.abs(error).max() < 5 * noise
    assert error.std() == pytest.approx(noise, rel=0.4)


def test_a_site_that_is_away_lowers_the_sum_and_not_the_divisor(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(ROUNDS, count=1), privacy=replace(SHARED, z=0.1))
    app = add_faults(client_app(QuadraticTraining(64)), [Fault(site="gamma", what="crash")])
    result = run_quadratic(tmp_path / "out", config, nodes, app=app)
    step = 0.5 * sum(PATIENTS[s] * centre(s, 64).astype(float) for s in ("alpha", "beta", "delta")) / 20
    assert np.abs(result.vector - step).max() < 5 * 0.5 * 0.1 * 10 * np.sqrt(3 / 2) / 20
    assert [(drop.site, drop.reason) for drop in result.history[0].drops] == [("gamma", "error")]


@pytest.mark.parametrize(("mode", "steps"), [("shared", 1), ("local", 4), ("site", 4)])
def test_every_release_is_in_the_ledger_and_the_report(tmp_path, nodes, mode, steps):
    privacy = replace(SHARED, mode=mode, z=6.0)
    config = replace(CONFIG, train=replace(CONFIG.train, local_steps=steps), privacy=privacy)
    result = run_quadratic(tmp_path / "out", config, nodes)
    terms = run_terms(config)
    count = steps if mode == "local" else 1
    part = 0.5 if mode == "site" else 1.0
    for site in PATIENTS:
        entries = ledger(tmp_path, site).entries()
        assert [(e.purpose, e.round, e.charge.count) for e in entries] == [(mode, r, count) for r in (1, 2, 3)]
        assert {e.charge.z for e in entries} == {6.0 * part}
    report = privacy_report(terms, result.history, releases(config))
    assert report["mode"] == mode
    assert report["steps"] == 3 * count
    assert report["epsilon"] == pytest.approx(epsilon({(6.0, 1.0): 3 * count}, 1e-5), abs=1e-3)
    alone = 6.0 if mode == "local" else 6.0 / 2**0.5  # m - t = 2 share the noise
    assert report["epsilon_all_others_collude"] == pytest.approx(epsilon({(alone, 1.0): 3 * count}, 1e-5), abs=1e-3)
    assert all(record.metrics == {} for record in result.history)


def test_sharing_gives_two_epsilons(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(ROUNDS, min_sites=4))
    result = run_quadratic(tmp_path / "out", config, nodes)
    report = privacy_report(run_terms(config), result.history, 1)
    assert report["survivors"] - report["colluders"] == 3
    assert report["epsilon_all_others_collude"] == pytest.approx(epsilon({(4 / 3**0.5, 1.0): 3}, 1e-5), abs=1e-3)
    assert ledger(tmp_path, "beta").entries()[0].charge.z_alone == pytest.approx(4 / 3**0.5)


def test_a_report_says_its_mode_in_one_line(tmp_path, nodes):
    result = run_quadratic(tmp_path / "out", CONFIG, nodes)
    line = privacy_line(privacy_report(run_terms(CONFIG), result.history, 1))
    one, alone = epsilon({(4.0, 1.0): 3}, 1e-5), epsilon({(4.0 / 2**0.5, 1.0): 3}, 1e-5)
    assert line == (
        f"privacy: shared, epsilon {one:.2f} a patient ({alone:.2f} if all others collude), delta 1e-05, 3 steps"
    )
    assert privacy_line(privacy_report(None, (), 1)).startswith("privacy: NONE")


def test_a_failed_attempt_is_paid_for_and_reported(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(ROUNDS, count=1, min_sites=4))
    failed: list[str] = []

    class FailsOnce(QuadraticTraining):
        def private_round(self, site, *rest):
            if site.site == "beta" and not failed:
                failed.append("beta")
                raise RuntimeError("once")
            return super().private_round(site, *rest)

    result = run_quadratic(tmp_path / "out", config, nodes, app=client_app(FailsOnce(64)))
    assert result.history[0].attempt == 2
    assert [len(ledger(tmp_path, site).entries()) for site in PATIENTS] == [2, 1, 2, 2]
    assert privacy_report(run_terms(config), result.history, 1)["steps"] == 2


class Failing(QuadraticTraining):
    """One hospital's work fails as long as ``failures`` are left."""

    failures = 0

    def private_round(self, site, *rest):
        if site.site == "beta" and self.failures > 0:
            self.failures -= 1
            raise RuntimeError("not this time")
        return super().private_round(site, *rest)


@pytest.mark.parametrize(("mode", "steps"), [("shared", 1), ("local", 3)])
def test_attempts_of_an_earlier_start_stay_paid_for_and_reported(tmp_path, nodes, mode, steps):
    """Two failed attempts, the end of that start, and two more attempts: four releases, whatever the process knew."""
    config = replace(
        CONFIG,
        rounds=replace(ROUNDS, count=1, min_sites=4),
        train=replace(CONFIG.train, local_steps=steps),
        privacy=replace(SHARED, mode=mode),
    )
    training = Failing(64)
    training.failures = 3
    with pytest.raises(QuorumError):
        run_quadratic(tmp_path / "out", config, nodes, app=client_app(training))
    result = run_quadratic(tmp_path / "out", config, nodes, app=client_app(training))
    assert result.history[0].attempt == 4
    assert [(d.site, d.attempt) for d in result.history[0].drops if d.site == "beta"] == [
        ("beta", n) for n in (1, 2, 3)
    ]
    assert len(ledger(tmp_path, "alpha").entries()) == 4
    assert privacy_report(run_terms(config), result.history, releases(config))["steps"] == 4 * steps


@pytest.mark.parametrize("mode", ["shared", "local"])
def test_answers_that_a_killed_coordinator_lost_are_reported(tmp_path, nodes, mode, monkeypatch):
    """Killed after the sites answered, with nothing of their answers on its disk: they are asked, and pay, again."""
    config = replace(CONFIG, rounds=replace(ROUNDS, count=2), privacy=replace(SHARED, mode=mode))
    saved = Journal.save

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("server.rounds.secure_step.keep_sum", killed)
        patched.setattr(Journal, "save", lambda self, state: killed() if state.round else saved(self, state))
        with pytest.raises(KeyboardInterrupt):
            run_quadratic(tmp_path / "out", config, nodes)
    result = run_quadratic(tmp_path / "out", config, nodes)
    assert [record.attempt for record in result.history] == [2, 1]
    charged = [len(ledger(tmp_path, site).entries()) for site in PATIENTS]
    assert charged == [privacy_report(run_terms(config), result.history, 1)["steps"]] * 4


def test_a_round_done_again_for_a_damaged_checkpoint_counts_twice(tmp_path, nodes):
    config = replace(CONFIG, privacy=replace(SHARED, mode="local"))
    run_quadratic(tmp_path / "out", config, nodes)
    newest = max((tmp_path / "out" / "checkpoint").glob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    max((tmp_path / "out" / "sums").glob("*.npz")).unlink()  # with it the round would not be asked for again
    result = run_quadratic(tmp_path / "out", config, nodes)
    assert [record.attempt for record in result.history] == [1, 1, 2]
    assert len(ledger(tmp_path, "alpha").entries()) == 4


def test_a_site_without_a_ledger_or_with_an_edited_one_releases_nothing(tmp_path, nodes):
    without = [{k: v for k, v in node.items() if k != LEDGER_KEY} for node in nodes]
    with pytest.raises(QuorumError, match="keeps no privacy ledger"):
        run_quadratic(tmp_path / "out", CONFIG, without)
    run_quadratic(tmp_path / "out2", CONFIG, nodes)
    for site in PATIENTS:
        path = tmp_path / "ledgers" / site / "ledger.jsonl"
        path.write_text(path.read_text().replace('"z":4.0', '"z":40.0', 1))
    with pytest.raises(QuorumError, match="refused"):
        run_quadratic(tmp_path / "out3", CONFIG, nodes)


def test_momentum_and_adam_step_on_the_released_direction(tmp_path, nodes):
    for name in ("fedavgm", "fedadam"):
        config = replace(CONFIG, aggregate=aggregate_config(name=name, lr=0.1), rounds=replace(ROUNDS, count=2))
        result: FederationResult = run_quadratic(tmp_path / name, config, nodes)
        assert np.isfinite(result.vector).all()
        assert result.vector.any()


def test_a_resumed_run_has_the_same_terms(tmp_path, nodes):
    run_quadratic(tmp_path / "out", CONFIG, nodes)
    again = run_quadratic(tmp_path / "out", CONFIG, nodes)
    assert again.resumed_from == 3
    assert len(ledger(tmp_path, "alpha").entries()) == 3


def _terms(**changes: object) -> PrivacyTerms:
    asked = run_terms(CONFIG)
    assert asked is not None
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_the_sum_takes_what_fits_and_names_what_cannot_be():
    terms, mask = _terms(), np.array([True, False, True])
    kind = RING_TYPES[terms.encoding().bits]
    for wrong in (np.zeros(3, kind), np.zeros(2, np.uint64 if kind != np.uint64 else np.uint32)):
        with pytest.raises(FedKT3DError, match="expected 2 numbers"):
            RingSum(terms, mask, wrong)
    total = RingSum(terms, mask, np.zeros(2, kind))
    assert total.excess() == ""
    assert total.mean().tolist() == [0.0, 0.0, 0.0]
    assert "above" in RingSum(terms, mask, np.full(2, 2 ** (terms.encoding().bits - 1) - 1, kind)).excess()


def test_a_sum_that_no_honest_sites_can_give_ends_the_attempt_and_blames_nobody(tmp_path, nodes):
    class Huge(QuadraticTraining):
        def private_round(self, site, spec_json, vector, task, terms):
            ring = super().private_round(site, spec_json, vector, task, terms)
            return ring + ring.dtype.type(2 ** (8 * ring.itemsize - 2)) if site.site == "beta" else ring

    with pytest.raises(QuorumError, match="norm_exceeded"):
        run_quadratic(tmp_path / "out", CONFIG, nodes, app=client_app(Huge(64)))


def test_a_killed_coordinator_goes_on_with_the_sum_that_it_had(tmp_path, nodes, monkeypatch):
    """Killed between the sum and its checkpoint: no site is asked, and charged, for that round again."""
    saved = Journal.save

    def killed(self, state):
        if state.round == 2:
            raise KeyboardInterrupt
        saved(self, state)

    monkeypatch.setattr(Journal, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_quadratic(tmp_path / "out", CONFIG, nodes)
    monkeypatch.undo()
    result = run_quadratic(tmp_path / "out", CONFIG, nodes)
    assert (result.resumed_from, result.rounds) == (1, 3)
    assert [record.attempt for record in result.history] == [1, 1, 1]
    assert [len(ledger(tmp_path, site).entries()) for site in PATIENTS] == [3] * 4
    assert [list(record.sites) for record in result.history] == [list(PATIENTS)] * 3
    again = replay(tmp_path / "out", CONFIG, np.zeros(64, np.float32), everything, result.history)
    assert again.tobytes() == result.vector.tobytes()


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_the_kept_sums_give_the_adapter_to_the_bit(tmp_path, nodes, name):
    config = replace(CONFIG, aggregate=aggregate_config(name=name, lr=0.3))
    result = run_quadratic(tmp_path / "out", config, nodes)
    initial = np.zeros(64, np.float32)
    assert replay(tmp_path / "out", config, initial, everything, result.history).tobytes() == result.vector.tobytes()
    path = tmp_path / "out" / "sums" / "00000002.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="round 2 is not here"):
        replay(tmp_path / "out", config, initial, everything, result.history)


def test_a_sum_that_another_run_left_is_not_taken(tmp_path, nodes):
    run_quadratic(tmp_path / "out", CONFIG, nodes)
    shutil.rmtree(tmp_path / "out" / "checkpoint")
    run_quadratic(tmp_path / "out", CONFIG, nodes)
    assert [len(ledger(tmp_path, site).entries()) for site in PATIENTS] == [6] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": 2}, "privacy.sites=2.* expected 3 to 128"),
        ({"sites": 129}, "privacy.sites=129.* expected 3 to 128"),
        ({"sites": 6}, "rounds.min_sites=3: of 6 sites .* expected 4 to 6"),
        ({"sites": 4, "colluders": 2}, "rounds.min_sites=3: .* expected 4 to 4"),
        ({"sites": 5, "colluders": 1}, "expected 4 to 5"),
    ],
)
def test_what_secure_aggregation_cannot_sum_up_is_said_at_the_start(changes, words):
    with pytest.raises(InputError, match=words):
        run_terms(replace(CONFIG, privacy=replace(SHARED, **changes)))


def test_noise_is_solved_for_the_whole_run():
    config = replace(CONFIG, privacy=replace(SHARED, z=0.0, epsilon=8.0), rounds=replace(ROUNDS, count=50))
    assert _terms().z == 4.0
    assert run_terms(config).z == pytest.approx(4.25, abs=0.01)
