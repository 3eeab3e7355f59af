"""Private modes through the real round loop, client app and ledgers, on a quadratic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import LEDGER_KEY, client_app
from privacy.accountant import epsilon
from privacy.encoding import RING_TYPES
from privacy.ledger import SiteLedger
from privacy.modes import Terms
from server.aggregate import UpdateRejectedError
from server.config import AggregateConfig, PrivacyConfig, RoundsConfig, RunConfig, TrainConfig
from server.private_run import privacy_report, releases, run_terms
from server.ring_sum import RingSum
from server.rounds import FederationResult, QuorumError
from shared_model.errors import InputError
from simulations.faults import Fault, faulty
from simulations.quadratic import QuadraticTraining, centre, run_quadratic, write_sites

PATIENTS = {"alpha": 5, "beta": 2, "gamma": 9}
ROUNDS = RoundsConfig(count=3, min_sites=2, deadline_s=20.0, wait_for_sites_s=20.0, attempts=2, evaluate_every=0)
SHARED = PrivacyConfig(mode="shared", z=4.0, clip=10.0, cohort=16, sites=3)
CONFIG = RunConfig(rounds=ROUNDS, train=TrainConfig(local_steps=1, lr=0.5, lr_final_fraction=1.0), privacy=SHARED)


@pytest.fixture
def nodes(tmp_path):
    return write_sites(tmp_path, PATIENTS)


def ledger(tmp_path: Path, site: str) -> SiteLedger:
    return SiteLedger(folder=tmp_path / "ledgers" / site, delta=1e-5)


def test_a_shared_step_is_the_mean_over_the_declared_cohort(tmp_path, nodes):
    """With little noise the step is lr times the mean of the patients' directions; with the terms' noise it varies."""
    config = replace(CONFIG, rounds=replace(ROUNDS, count=1), privacy=replace(SHARED, z=0.1))
    result = run_quadratic(tmp_path / "out", config, nodes)
    step = 0.5 * sum(n * centre(site, 64).astype(float) for site, n in PATIENTS.items()) / 16
    noise = 0.5 * 0.1 * 10.0 * np.sqrt(3) / 16
    error = result.vector - step
    assert np.abs(error).max() < 5 * noise
    assert error.std() == pytest.approx(noise, rel=0.4)


def test_a_site_that_is_away_lowers_the_sum_and_not_the_divisor(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(ROUNDS, count=1), privacy=replace(SHARED, z=0.1))
    app = faulty(client_app(QuadraticTraining(64)), [Fault(site="gamma", what="crash")])
    result = run_quadratic(tmp_path / "out", config, nodes, app=app)
    step = 0.5 * sum(PATIENTS[s] * centre(s, 64).astype(float) for s in ("alpha", "beta")) / 16
    assert np.abs(result.vector - step).max() < 5 * 0.5 * 0.1 * 10 * np.sqrt(2) / 16


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
    assert report["epsilon_all_others_collude"] == report["epsilon"]  # m - t = 1: nobody to share with
    assert all(record.metrics == {} for record in result.history)


def test_sharing_gives_two_epsilons(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(ROUNDS, min_sites=3))
    result = run_quadratic(tmp_path / "out", config, nodes)
    report = privacy_report(run_terms(config), result.history, 1)
    assert report["survivors"] - report["colluders"] == 2
    assert report["epsilon_all_others_collude"] == pytest.approx(epsilon({(4 / 2**0.5, 1.0): 3}, 1e-5), abs=1e-3)
    assert ledger(tmp_path, "beta").entries()[0].charge.z_alone == pytest.approx(4 / 2**0.5)


def test_a_failed_attempt_is_paid_for_and_reported(tmp_path, nodes):
    config = replace(CONFIG, rounds=replace(ROUNDS, count=1, min_sites=3))
    failed: list[str] = []

    class FailsOnce(QuadraticTraining):
        def private_round(self, site, *rest):
            if site.site == "beta" and not failed:
                failed.append("beta")
                raise RuntimeError("once")
            return super().private_round(site, *rest)

    result = run_quadratic(tmp_path / "out", config, nodes, app=client_app(FailsOnce(64)))
    assert result.history[0].attempt == 2
    assert [len(ledger(tmp_path, site).entries()) for site in PATIENTS] == [2, 1, 2]
    assert privacy_report(run_terms(config), result.history, 1)["steps"] == 2


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
        config = replace(CONFIG, aggregate=AggregateConfig(name=name, lr=0.1), rounds=replace(ROUNDS, count=2))
        result: FederationResult = run_quadratic(tmp_path / name, config, nodes)
        assert np.isfinite(result.vector).all()
        assert result.vector.any()


def test_a_resumed_run_has_the_same_terms(tmp_path, nodes):
    run_quadratic(tmp_path / "out", CONFIG, nodes)
    again = run_quadratic(tmp_path / "out", CONFIG, nodes)
    assert again.resumed_from == 3
    assert len(ledger(tmp_path, "alpha").entries()) == 3


def _terms(**changes: object) -> Terms:
    asked = run_terms(CONFIG)
    assert asked is not None
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_the_sum_takes_what_fits_and_names_what_cannot_be():
    terms = _terms()
    kind = RING_TYPES[terms.encoding().bits]
    total = RingSum(terms, np.array([True, False, True]))
    for wrong in (np.zeros(3, kind), np.zeros(2, np.uint64 if kind != np.uint64 else np.uint32)):
        with pytest.raises(UpdateRejectedError, match="expected 2 numbers"):
            total.add(wrong)
    total.add(np.zeros(2, kind))
    assert total.excess() == ""
    assert total.mean().tolist() == [0.0, 0.0, 0.0]
    total.add(np.full(2, 2 ** (terms.encoding().bits - 1) - 1, kind))
    assert "above" in total.excess()


def test_noise_is_solved_for_the_whole_run():
    config = replace(CONFIG, privacy=replace(SHARED, z=0.0, epsilon=8.0), rounds=replace(ROUNDS, count=50))
    assert _terms().z == 4.0
    assert run_terms(config).z == pytest.approx(4.25, abs=0.01)
    with pytest.raises(InputError, match="colluders < survivors"):
        run_terms(replace(config, privacy=replace(config.privacy, colluders=2)))
