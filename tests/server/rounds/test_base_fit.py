"""The exchange that fits the base, through the real apps: exact, robust against bad sums, kept over a restart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import InstalledTraining, client_app
from client.site.config import SiteConfig
from client.training.base import base_sums
from privacy.wire.messages import Reply
from server.app import federate, run_config
from server.record.events import EventLog
from server.rounds.base_fit import _BaseFit
from server.rounds.result import QuorumError
from server.sites.attendance import ANYONE
from server.sites.exchange import Answer
from shared_model.adapter.manifest import load_adapter
from shared_model.base import ridge as base
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.engine.run import run_local
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.run_config import plain_run, rounds_config

MODEL = {"prior": "none", "base": "ridge", "base_fourier": 10, "shape": [16, 16, 16]}
CONFIG = plain_run(
    model=MODEL,
    rounds=rounds_config(count=1, min_sites=2, attempts=1, evaluate_every=0, wait_for_sites_s=20.0),
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> list[SiteConfig]:
    root = tmp_path_factory.mktemp("hospitals")
    return [
        write_hospital(root / name, STYLES["balanced_7f"], patients, seed, site=name, shape=(16, 16, 16))
        for seed, (name, patients) in enumerate({"north": 4, "south": 3, "west": 3}.items())
    ]


@pytest.fixture
def nodes(sites, tmp_path):
    paths = [tmp_path / f"{site.site}.yaml" for site in sites]
    for site, path in zip(sites, paths, strict=True):
        site.save(path)
    return [{"site-config": str(path)} for path in paths]


class Still(InstalledTraining):
    """The installed model and base; training changes nothing."""

    def train_round(self, site, spec_json, vector, task):
        assert ModelSpec.from_json(spec_json).base_weights, "sites train with the fitted base"
        return np.zeros_like(vector), {"loss": 1.0}


class Wrong(Still):
    """One site whose sums are spoilt."""

    def __init__(self, spoil) -> None:
        self._spoil = spoil

    def base_sums(self, site, spec_json):
        sums = super().base_sums(site, spec_json)
        return self._spoil(sums) if site.site == "west" else sums


def run(out: Path, nodes, training=None, config=CONFIG, seen=None):
    listen = None if seen is None else seen.append
    return run_local(
        client_app(training or Still()), lambda g, c: federate(g, c, listen), nodes, run_config(config, out), workers=2
    )


def expected(sites) -> np.ndarray:
    return base.solve(sum(base_sums(site, ModelSpec.from_json(json.dumps(MODEL))) for site in sites), 10).weights


def test_the_federated_base_is_the_pooled_one_to_the_bit(sites, nodes, tmp_path):
    run(tmp_path / "out", nodes)
    spec, _, card = load_adapter(tmp_path / "out" / "adapter.safetensors")
    assert base.weights_of(spec).tobytes() == expected(sites).tobytes()
    assert card["base"]["sites"] == {site.site: len(site.train) for site in sites}
    assert card["base"]["patients"] == sum(len(site.train) for site in sites)
    assert "weights" not in card["base"]
    run(tmp_path / "again", list(reversed(nodes)))
    assert load_adapter(tmp_path / "again" / "adapter.safetensors")[0] == spec


def test_a_restart_keeps_the_base_though_other_sites_are_there(nodes, tmp_path):
    run(tmp_path / "out", nodes)
    first = (tmp_path / "out" / "base.json").read_bytes()
    result = run(tmp_path / "out", nodes[:2])
    assert result.resumed_from == 1
    assert (tmp_path / "out" / "base.json").read_bytes() == first
    with pytest.raises(InputError, match="another configuration"):
        run(tmp_path / "out", nodes, config=replace(CONFIG, seed=1))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s[:-1], "whole numbers"),
        (lambda s: s * 1_000_000, "more patients"),
        (lambda s: np.append(s[:-1] * 10_000, s[-1]), "larger"),
    ],
)
def test_sums_that_cannot_be_are_dropped_by_name(sites, nodes, tmp_path, spoil, words):
    seen: list = []
    run(tmp_path / "out", nodes, Wrong(spoil), seen=seen)
    dropped = [event for event in seen if event.kind == "site_dropped"]
    assert [(event.site, event.reason) for event in dropped] == [("west", "schema")]
    assert words in dropped[0].detail
    spec, _, card = load_adapter(tmp_path / "out" / "adapter.safetensors")
    assert base.weights_of(spec).tobytes() == expected(sites[:2]).tobytes()
    assert set(card["base"]["sites"]) == {"north", "south"}
    drops = json.loads((tmp_path / "out" / "federation.json").read_text())["drops"]
    assert [(drop["round"], drop["site"], drop["reason"]) for drop in drops] == [(0, "west", "schema")]
    # Also where a base that an earlier start fitted is gone on with.
    run(tmp_path / "out", nodes, Wrong(spoil))
    assert json.loads((tmp_path / "out" / "federation.json").read_text())["drops"] == drops


def test_too_few_usable_answers_stop_the_run(nodes, tmp_path):
    class Failing(Still):
        def base_sums(self, site, spec_json):
            raise InputError("/data/DOE^JANE/ct.npz: truncated")

    with pytest.raises(QuorumError, match=r"base: fewer than 2 .*north: refused \(data\)") as caught:
        run(tmp_path / "out", nodes, Failing())
    assert "DOE" not in str(caught.value)
    assert not (tmp_path / "out" / "base.json").exists()


def test_a_base_that_came_with_the_configuration_is_not_fitted_again(nodes, tmp_path):
    weights = np.zeros(base.columns(10), np.float32)
    given = base.with_weights(ModelSpec.from_json(json.dumps(MODEL)), weights).base_weights
    run(tmp_path / "out", nodes, config=replace(CONFIG, model={**MODEL, "base_weights": given}))
    assert not base.weights_of(load_adapter(tmp_path / "out" / "adapter.safetensors")[0]).any()
    assert not (tmp_path / "out" / "base.json").exists()


def test_an_answer_without_sums_counts_for_no_quorum(tmp_path):
    """A masked one passes the message schema; none was asked for."""
    spec = ModelSpec.from_json(json.dumps(MODEL))
    fit = _BaseFit(None, CONFIG, spec, "0" * 64, EventLog(tmp_path, None), ANYONE)  # type: ignore[arg-type]
    reply = Reply(kind="base", site="west", round=0, run_id="0" * 32, patients=0)
    drop = fit._judge(Answer(node=1, site="west", reply=reply))
    assert drop is not None
    assert (drop.site, drop.reason) == ("west", "schema")
