"""The run's configuration: strict JSON, Hydra's typed schema, and what makes two runs the same."""

import json
from dataclasses import replace

import pytest
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from server.config.hydra_schema import hydra_schema
from server.config.identity import run_identity
from server.config.run import (
    AggregateConfig,
    PrivacyConfig,
    RoundsConfig,
    RunConfig,
    TrainConfig,
)
from shared_model.core.errors import InputError


def test_json_round_trip():
    config = RunConfig(
        privacy=PrivacyConfig(mode="none"), name="a.b", seed=3, model={"adapter": "full"}, train=TrainConfig(lr=1)
    )
    assert RunConfig.from_json(config.to_json()) == config
    assert isinstance(config.train.lr, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sed":1}', "unknown key sed; expected one of name, seed"),
        ('{"train":{"lrr":1}}', "unknown key train.lrr"),
        ('{"train":3}', "train. must be a mapping"),
        ("[]", "the whole must be a mapping"),
        ("{", "not valid JSON"),
        ('{"model":[]}', "model must be a mapping"),
        ('{"name":"../x"}', "name must be"),
        ('{"seed":-1}', "seed must be an integer from 0"),
        ('{"seed":true}', "seed must be an integer"),
        ('{"train":{"lr":0}}', "train: lr must be a finite float above 0"),
        ('{"train":{"lr":"1"}}', "train: lr must be"),
        ('{"train":{"lr":NaN}}', "train: lr must be a finite float"),
        ('{"train":{"stage":"rl"}}', "stage must be one of dose, any2any"),
        ('{"rounds":{"count":0}}', "rounds: count must be"),
        ('{"rounds":{"deadline_s":-1}}', "deadline_s must be"),
        ('{"aggregate":{"name":"krum"}}', "name must be one of fedavg, fedavgm, fedadam"),
        ('{"privacy":{"mode":"open"}}', "mode must be one of shared, local, site, none"),
        ("{}", "with privacy.mode=shared: privacy.cohort and privacy.sites"),
        ('{"privacy":{"mode":"shared"}}', "privacy.mode=none trains without privacy"),
        ('{"privacy":{"mode":"shared","cohort":9,"sites":3}}', "rounds.evaluate_every: expected 0"),
    ],
)
def test_bad_input_is_one_clear_line(text, message):
    with pytest.raises(InputError) as caught:
        RunConfig.from_json(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_hydra_composes_the_schema_with_overrides_and_refuses_unknown_keys():
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name="run_config_test", node=hydra_schema())
    with initialize(version_base="1.3", config_path=None):
        composed = compose(
            "run_config_test", overrides=["privacy.mode=none", "train.lr=3", "rounds.count=5", "+model.adapter=full"]
        )
        config = RunConfig.from_json(json.dumps(OmegaConf.to_container(composed)))
        assert config.train.lr == 3.0
        assert config.rounds.count == 5
        assert config.model == {"adapter": "full"}
        for bad in ("train.lrr=3", "train.lr=abc", "rounds.count=1.5"):
            with pytest.raises(HydraException):
                compose("run_config_test", overrides=[bad])


@pytest.mark.parametrize("key", ["public_step", "public_worst"])
def test_a_limit_below_one_is_refused(key):
    """Whoever means five per cent writes 1.05; 0.05 would take every round back."""
    with pytest.raises(InputError, match=rf"rounds.{key} must be 0 \(no limit\) or a factor from 1"):
        RoundsConfig(**{key: 0.05})


def test_public_patients_count_by_what_they_are_and_only_where_rounds_are_judged(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.npz", "same.npz", "other.npz"))
    for path, content in ((one, b"a"), (same, b"a"), (other, b"b")):
        path.write_bytes(content)
    config = RunConfig(privacy=PrivacyConfig(mode="none"))

    def identity(**rounds: object) -> str:
        return run_identity(replace(config, rounds=RoundsConfig(**rounds)), "{}", "m", b"v")

    assert identity() == identity(public_cases=str(one))
    assert identity(public_step=1.05) != identity()
    assert identity(public_step=1.05, public_cases=str(one)) == identity(public_step=1.05, public_cases=str(same))
    assert identity(public_step=1.05, public_cases=str(one)) != identity(public_step=1.05, public_cases=str(other))
    with pytest.raises(InputError, match=r"public_cases=.*cannot be read"):
        identity(public_step=1.05, public_cases=str(tmp_path / "none.npz"))


def test_identity_counts_what_determines_the_result_and_not_patience():
    config = RunConfig(privacy=PrivacyConfig(mode="none"))
    same = run_identity(config, "{}", "m", b"v")
    patient = replace(config, rounds=RoundsConfig(deadline_s=1.0, wait_for_sites_s=1.0, attempts=9))
    assert run_identity(patient, "{}", "m", b"v") == same
    others = [
        run_identity(replace(config, seed=1), "{}", "m", b"v"),
        run_identity(replace(config, aggregate=AggregateConfig(lr=0.5)), "{}", "m", b"v"),
        run_identity(replace(config, rounds=RoundsConfig(min_sites=1)), "{}", "m", b"v"),
        run_identity(config, '{"a":1}', "m", b"v"),
        run_identity(config, "{}", "n", b"v"),
        run_identity(config, "{}", "m", b"w"),
    ]
    assert len({same, *others}) == 7
