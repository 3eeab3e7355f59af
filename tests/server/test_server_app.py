"""The ServerApp as a deployment runs it: run config in, adapter and report out, on a real model's vector."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from client.app import InstalledTraining, client_app
from client.data.case_files import save_case
from server.app import app, federate, run_config
from server.runs.failure import ReportedError
from shared_model.adapter.card import public_card
from shared_model.adapter.envelope import Envelope
from shared_model.adapter.manifest import initial_vector, load_adapter, vector_hash
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.engine.consortium import enrol
from simulations.engine.quadratic import write_sites
from simulations.engine.run import run_local
from tests.builders.run_config import plain_run, privacy_config, rounds_config
from tests.builders.small_case import small_case

CONFIG = plain_run(
    name="test",
    seed=5,
    model={"prior": "none"},
    rounds=rounds_config(count=2, min_sites=2),
)


class Nudge(InstalledTraining):
    """The installed model; training only moves every value by one in 1024."""

    def train_round(self, site, spec_json, vector, task):
        return np.full_like(vector, 2.0**-10), {"loss": 1.0}

    def evaluate_round(self, site, spec_json, vector, task):
        return {"dose_score_gy": float(len(site.train))}


def test_adapter_and_report(tmp_path):
    nodes = write_sites(tmp_path, {"a": 1, "b": 3})
    out = tmp_path / "out"
    assert run_local(client_app(Nudge()), app, nodes, run_config(CONFIG, out), workers=2) is None
    spec, vector, card = load_adapter(out / "adapter.safetensors")
    assert spec == ModelSpec(prior="none")
    np.testing.assert_allclose(vector, initial_vector(spec) + 2.0**-9, atol=1e-6)
    assert (card["name"], card["rounds"], card["sites"], card["privacy"]["mode"]) == (
        "test",
        2,
        {"a": 1, "b": 3},
        "none",
    )
    assert card["metrics"] == {"dose_score_gy": 2.0}
    assert card["adapter"]["file_sha256"] == hashlib.sha256((out / "adapter.safetensors").read_bytes()).hexdigest()
    report = json.loads((out / "federation.json").read_text())
    assert report["adapter_sha256"] == vector_hash(vector)
    assert report["sites"] == {"a": 1, "b": 3}
    assert report["drops"] == []
    assert report["wire_bytes_per_round"] > 2 * 2 * vector.nbytes
    assert report["history"][1]["evaluation"]["metrics"] == {"dose_score_gy": 2.0}
    assert str(tmp_path) not in json.dumps(report)

    seen = []
    again = run_local(client_app(Nudge()), lambda g, c: federate(g, c, seen.append), nodes, run_config(CONFIG, out))
    assert again.resumed_from == 2
    assert [event.kind for event in seen] == ["resumed", "finished"]


def test_report_and_card_name_the_adapter_that_the_run_began_with(tmp_path):
    nodes = write_sites(tmp_path, {"a": 1, "b": 3})
    first, then = tmp_path / "first", tmp_path / "then"
    once = replace(CONFIG, rounds=replace(CONFIG.rounds, count=1))
    assert run_local(client_app(Nudge()), app, nodes, run_config(once, first)) is None
    second = replace(once, initial=str(first / "adapter.safetensors"))
    assert run_local(client_app(Nudge()), app, nodes, run_config(second, then)) is None
    _, vector, _ = load_adapter(first / "adapter.safetensors")
    _, _, card = load_adapter(then / "adapter.safetensors")
    start = json.loads((then / "federation.json").read_text())["start"]
    assert card["start"] == start
    assert (start["sha256"], start["privacy"]["mode"], start["patients"]) == (vector_hash(vector), "none", 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "{}"}, "does not match config-sha256"),
        ({"out": ""}, "out is missing"),
        ({"config-sha256": 3}, "config-sha256 is missing"),
    ],
)
def test_a_broken_run_config_is_refused_before_anything_is_written(tmp_path, changes, message):
    nodes = write_sites(tmp_path, {"a": 1})
    with pytest.raises(ReportedError, match=f"exit {InputError.exit_code}: .*{message}"):
        run_local(client_app(Nudge()), app, nodes, {**run_config(CONFIG, tmp_path / "out"), **changes})
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_key_is_refused_before_anything_is_written(tmp_path):
    config = plain_run(model={"priorr": "none"})
    with pytest.raises(ReportedError, match=f"exit {InputError.exit_code}: .*unknown key 'priorr'"):
        run_local(client_app(Nudge()), app, write_sites(tmp_path, {"a": 1}), run_config(config, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_noised_counts_of_the_patients_become_ranges_in_the_card(tmp_path):
    """Three hospitals in mode masked: report and card say what the counts cost, and the card judges by them."""
    nodes = write_sites(tmp_path, dict.fromkeys("abc", 12))
    for number in range(12):
        save_case(tmp_path / f"pt_{number}.npz", small_case(f"pt_{number}"))
    privacy = privacy_config(mode="masked", cohort=36, sites=3, statistics=99.0)
    config = replace(
        CONFIG,
        model={"prior": "none", "adapter": "lora", "rank": 2},
        rounds=replace(CONFIG.rounds, count=1, min_sites=3, evaluate_every=0),
        privacy=privacy,
    )
    out = tmp_path / "out"
    with enrol(nodes) as (known, members):
        run_local(client_app(Nudge()), lambda g, c: federate(g, c, None, members), known, run_config(config, out))
    _, _, card = load_adapter(out / "adapter.safetensors")
    ranges = Envelope.from_card(card)
    assert ranges.patients == 36
    assert ranges.judge(small_case()).refusals == ()
    told = card["privacy"]["statistics"]
    assert told == json.loads((out / "federation.json").read_text())["privacy"]["statistics"]
    assert (told["releases"], told["failed"]) == (1, "")
    assert 90.0 < told["epsilon"] <= 99.0
    assert public_card(card)["trained_on"]["sites"] == 3
