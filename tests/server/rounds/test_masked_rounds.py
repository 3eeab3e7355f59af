"""Mode masked through the real round loop, secure aggregation and client app, on a quadratic: no site in clear."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from client.app import NODE_CONFIG_KEY, client_app
from client.site.config import SiteConfig
from privacy.wire.messages import parse_request
from privacy.wire.secure_records import SECURE_KINDS
from server.app import federation_report
from server.config.privacy import mask_terms
from server.rounds.advance import replay
from server.rounds.result import QuorumError
from simulations.engine.faults import site_of
from simulations.engine.quadratic import QuadraticTraining, run_quadratic, write_sites
from tests.builders.run_config import plain_run, privacy_config, rounds_config, train_config

PATIENTS = {"alpha": 5, "beta": 2, "delta": 4, "gamma": 9}
CONFIG = plain_run(
    rounds=rounds_config(
        count=3, min_sites=4, deadline_s=20.0, wait_for_sites_s=5.0, attempts=2, evaluate_every=1, max_update_norm=50.0
    ),
    train=train_config(local_steps=3),
    privacy=privacy_config(mode="masked", cohort=20, sites=4),
)


@pytest.fixture
def nodes(tmp_path):
    return write_sites(tmp_path, PATIENTS)


def failing(site: str, kind: str, rounds: tuple[int, ...], times: int = 1) -> tuple[ClientApp, Counter]:
    """All sites; ``site`` fails at the first ``times`` requests of ``kind`` in ``rounds``. Requests are counted."""
    inner, asked, app = client_app(QuadraticTraining(64)), Counter(), ClientApp()

    def answer(message: Message, context) -> Message:
        found = parse_request(message.content)
        here = (site_of(context), found.kind, found.round)
        asked[here] += 1
        if here[:2] == (site, kind) and found.round in rounds and asked[here] <= times:
            raise RuntimeError("gone")
        return inner(message, context)

    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    return app, asked


def test_it_gives_the_adapter_of_mode_none_up_to_the_stated_step(tmp_path, nodes):
    plain = run_quadratic(tmp_path / "none", replace(CONFIG, privacy=privacy_config(mode="none")), nodes)
    masked = run_quadratic(tmp_path / "masked", CONFIG, nodes)
    terms = mask_terms(CONFIG)
    # Each round rounds once; the quadratic contracts what earlier rounds have rounded.
    assert 0 < np.abs(masked.vector - plain.vector).max() <= 3 * terms.error
    for ours, theirs in zip(masked.history, plain.history, strict=True):
        assert ours.metrics == {"loss": pytest.approx(theirs.metrics["loss"], abs=2**-19)}
        assert ours.evaluation.metrics == {"loss": pytest.approx(theirs.evaluation.metrics["loss"], abs=2**-19)}


def test_no_loss_score_norm_or_weight_of_a_site_is_in_the_record(tmp_path, nodes):
    result = run_quadratic(tmp_path / "out", CONFIG, nodes)
    for record in result.history:
        assert record.norms == {}
        assert record.sites == dict.fromkeys(sorted(PATIENTS), 1)
        assert record.per_site == record.evaluation.per_site == {site: {} for site in sorted(PATIENTS)}
        assert record.evaluation.patients == {}
    told = federation_report(CONFIG, result, "0" * 64)["privacy"]
    assert told["mode"] == "masked"
    assert told["rounding"] == mask_terms(CONFIG).error
    masks = lambda _stage: np.ones(64, dtype=bool)  # noqa: E731
    again = replay(tmp_path / "out", CONFIG, np.zeros(64, np.float32), masks, result.history)
    assert again.tobytes() == result.vector.tobytes()


@pytest.mark.parametrize("kind", [*SECURE_KINDS, "train"])
def test_a_drop_out_at_any_stage_changes_no_sum(tmp_path, nodes, kind):
    """Before the vectors are in, the attempt is made again; after that, the others take the masks off."""
    whole = run_quadratic(tmp_path / "whole", CONFIG, nodes)
    rounds = (1,) if kind in ("secure_keys", "secure_shares") else (2,)
    app, _ = failing("beta", kind, rounds)
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=app)
    late = kind in ("secure_confirm", "secure_reveal")
    assert result.history[rounds[0] - 1].attempt == (1 if late else 2)
    assert [list(record.sites) for record in result.history] == [sorted(PATIENTS)] * 3
    assert result.vector.tobytes() == whole.vector.tobytes()


def test_a_site_that_is_fifty_times_slower_is_waited_for_and_changes_no_bit(tmp_path, nodes):
    """Within `rounds.deadline_s`: without its vector no mask comes off, so there is nothing to go on with."""
    began = time.monotonic()
    fast = run_quadratic(tmp_path / "fast", CONFIG, nodes)
    usual_s = (time.monotonic() - began) / (CONFIG.rounds.count * len(PATIENTS))
    inner, app = client_app(QuadraticTraining(64)), ClientApp()

    def answer(message: Message, context) -> Message:
        if site_of(context) == "beta" and parse_request(message.content).kind == "train":
            time.sleep(min(50 * usual_s, 5.0))
        return inner(message, context)

    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    slow = run_quadratic(tmp_path / "slow", CONFIG, nodes, app=app)
    assert slow.vector.tobytes() == fast.vector.tobytes()
    assert [record.attempt for record in slow.history] == [1, 1, 1]
    assert slow.drops == ()


def test_the_sites_of_the_first_sum_are_those_of_the_run(tmp_path, nodes):
    """A hospital that is late is in no sum; one that leaves ends the run, and no smaller sum is made."""
    config = replace(CONFIG, rounds=replace(CONFIG.rounds, min_sites=3))
    app, asked = failing("gamma", "train", (1,), times=9)
    result = run_quadratic(tmp_path / "late", config, nodes, app=app)
    assert [list(record.sites) for record in result.history] == [["alpha", "beta", "delta"]] * 3
    assert asked["gamma", "train", 1] == 1
    assert asked["gamma", "train", 2] == 0
    app, _ = failing("gamma", "train", (2,), times=9)
    with pytest.raises(QuorumError, match=r"gamma: error"):
        run_quadratic(tmp_path / "gone", config, nodes, app=app)


def test_a_site_refuses_a_sum_over_other_sites_whatever_the_coordinator_does(tmp_path, nodes, monkeypatch):
    """The coordinator forgets that the first sum was over all four."""
    monkeypatch.setattr("server.rounds.secure_step.SummedSteps.freeze", lambda *_: frozenset())
    config = replace(CONFIG, rounds=replace(CONFIG.rounds, min_sites=3, attempts=1))
    app, _ = failing("gamma", "train", (2,), times=9)
    with pytest.raises(QuorumError, match=r"alpha: refused .*this one is over others"):
        run_quadratic(tmp_path / "out", config, nodes, app=app)


def test_a_site_scores_for_the_same_sites_only(tmp_path, nodes, monkeypatch):
    monkeypatch.setattr("server.rounds.secure_step.SummedSteps.freeze", lambda *_: frozenset())
    config = replace(CONFIG, rounds=replace(CONFIG.rounds, min_sites=3, count=1))
    app, _ = failing("gamma", "evaluate", (1,))
    [record] = run_quadratic(tmp_path / "out", config, nodes, app=app).history
    assert record.evaluation.metrics == {}
    assert {drop.site for drop in record.evaluation.drops} == set(PATIENTS)


def test_more_patients_than_declared_fail_the_round(tmp_path, nodes):
    config = replace(CONFIG, privacy=replace(CONFIG.privacy, cohort=19))
    with pytest.raises(QuorumError, match="weights add up to 20 patients, and its terms declare 19"):
        run_quadratic(tmp_path / "out", config, nodes)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, nodes):
    whole = run_quadratic(tmp_path / "whole", CONFIG, nodes)
    out = tmp_path / "out"
    app, _ = failing("gamma", "train", (3,), times=9)
    with pytest.raises(QuorumError):
        run_quadratic(out, CONFIG, nodes, app=app)
    result = run_quadratic(out, CONFIG, nodes)
    assert result.resumed_from == 2
    assert result.vector.tobytes() == whole.vector.tobytes()


@pytest.mark.parametrize("mode", ["none", "masked"])
def test_a_site_that_holds_nobody_back_costs_nobody_the_scores(tmp_path, nodes, mode):
    """Masks come off a sum of all sites alone, so this one adds nothing to it, under a weight of 0."""
    whole = run_quadratic(tmp_path / "whole", replace(CONFIG, privacy=privacy_config(mode="none")), nodes)
    path = Path(str(nodes[1][NODE_CONFIG_KEY]))
    replace(SiteConfig.load(path), validation=()).save(path)
    config = replace(CONFIG, privacy=privacy_config(mode=mode, cohort=20, sites=4))
    found = run_quadratic(tmp_path / "found", config, nodes)
    for record, of_all in zip(found.history, whole.history, strict=True):
        losses = [told["loss"] for site, told in of_all.evaluation.per_site.items() if site != "beta"]
        assert record.evaluation.metrics["loss"] == pytest.approx(np.mean(losses), abs=2**-17)
