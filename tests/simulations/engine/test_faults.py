"""One site fails in every way there is: the run goes on, the report names site and reason, the name is nowhere."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import client_app
from server.app import federation_report
from shared_model.core.errors import InputError
from simulations.engine.faults import FAULTS, FailingTraining, Fault, add_faults
from simulations.engine.quadratic import QuadraticTraining, run_quadratic, write_sites
from tests.builders.run_config import plain_run, rounds_config, train_config

NAME = "DOE^JANE"
PATIENTS = {"alpha": 5, "beta": 2, "gamma": 9}
CONFIG = plain_run(
    rounds=rounds_config(count=3, min_sites=2, deadline_s=20.0, wait_for_sites_s=20.0),
    train=train_config(local_steps=2, lr=0.3),
)
# Long enough for the healthy sites of a busy machine, and all that a test of silence has to wait for.
IMPATIENT = replace(CONFIG, rounds=replace(CONFIG.rounds, deadline_s=1.0))
REASONS = {
    "nan": "not_finite",
    "wrong_shape": "wrong_shape",
    "huge_norm": "norm_exceeded",
    "wrong_round": "wrong_round",
    "garbage": "schema",
    "crash": "error",
    "silence": "timeout",
    "slow": "timeout",
}


@pytest.fixture
def nodes(tmp_path):
    (tmp_path / "sites").mkdir()
    return write_sites(tmp_path / "sites", PATIENTS)


def written(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


def plain_app():
    return client_app(QuadraticTraining(64))


@pytest.mark.parametrize("what", FAULTS)
def test_the_run_goes_on_and_names_site_and_reason(tmp_path, nodes, what, caplog, capfd):
    fault = Fault(what=what, site="beta", rounds=(2,), text=f"cannot read {NAME}", seconds=1.5)
    config = IMPATIENT if what in ("silence", "slow") else CONFIG
    with caplog.at_level(logging.DEBUG):
        result = run_quadratic(tmp_path / "out", config, nodes, app=add_faults(plain_app(), [fault]), workers=3)
    assert [(r.round, d.site, d.reason) for r in result.history for d in r.drops] == [(2, "beta", REASONS[what])]
    assert [set(r.sites) for r in result.history] == [set(PATIENTS), {"alpha", "gamma"}, set(PATIENTS)]
    assert np.isfinite(result.vector).all()
    report = json.dumps(federation_report(CONFIG, result, "hash"))
    out, err = capfd.readouterr()
    assert json.loads(report)["drops"][0]["site"] == "beta"
    for text in (report, caplog.text, out, err, written(tmp_path / "out").decode("latin-1")):
        assert NAME not in text
    assert '"reason": "' + REASONS[what] in (tmp_path / "out" / "events.jsonl").read_text()


def test_the_dropped_site_does_not_count_towards_the_mean(tmp_path, nodes):
    with_fault = run_quadratic(
        tmp_path / "a", CONFIG, nodes, app=add_faults(plain_app(), [Fault(what="huge_norm", site="beta")])
    )
    without_site = run_quadratic(tmp_path / "b", CONFIG, [nodes[0], nodes[2]])
    assert with_fault.vector.tobytes() == without_site.vector.tobytes()


def test_an_exception_inside_the_hospitals_app_is_a_code(tmp_path, nodes, capfd):
    training = FailingTraining(QuadraticTraining(64), RuntimeError(f"bad slice of {NAME}"), site="gamma", rounds=(1, 3))
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=client_app(training))
    drops = [(r.round, d.site, d.reason, d.detail) for r in result.history for d in r.drops]
    assert drops == [(1, "gamma", "refused", "training_failed"), (3, "gamma", "refused", "training_failed")]
    out, err = capfd.readouterr()
    assert NAME not in written(tmp_path / "out").decode("latin-1") + out + err


def test_a_site_that_never_describes_itself_is_named_after_a_while(tmp_path, nodes):
    app = add_faults(plain_app(), [Fault(what="silence", site="beta", kinds=("describe",))])
    result = run_quadratic(tmp_path / "out", IMPATIENT, nodes, app=app, workers=3)
    assert result.sites == {"alpha": 5, "gamma": 9}
    assert [drop.reason for drop in result.drops] == ["timeout"]
    assert result.drops[0].site.startswith("node-")


def test_a_fault_in_evaluation_drops_the_site_from_the_scores_alone(tmp_path, nodes):
    app = add_faults(plain_app(), [Fault(what="crash", site="beta", kinds=("evaluate",), text=NAME)])
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=app)
    evaluation = result.history[0].evaluation
    assert [(drop.site, drop.reason) for drop in evaluation.drops] == [("beta", "error")]
    assert set(evaluation.per_site) == {"alpha", "gamma"}
    assert set(result.history[0].sites) == set(PATIENTS)
    assert NAME not in written(tmp_path / "out").decode("latin-1")


def test_all_faults_at_once_leave_a_run_of_the_healthy(tmp_path):
    (tmp_path / "sites").mkdir()
    names = {f"bad-{what.replace('_', '-')}": 1 for what in FAULTS if what != "slow"}
    nodes = write_sites(tmp_path / "sites", {**names, "good-1": 4, "good-2": 2})
    faults = [Fault(what=what, site=f"bad-{what.replace('_', '-')}", text=NAME) for what in FAULTS if what != "slow"]
    result = run_quadratic(tmp_path / "out", IMPATIENT, nodes, app=add_faults(plain_app(), faults), workers=2)
    assert [set(record.sites) for record in result.history] == [{"good-1", "good-2"}] * 3
    assert len(result.history[0].drops) == 7


def test_an_unknown_fault_is_refused():
    with pytest.raises(InputError, match="expected one of nan"):
        Fault(what="flood", site="a")
