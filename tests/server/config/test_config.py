"""The run's configuration: strict JSON, Hydra's typed schema, and what makes two runs the same."""

import json
import re
from dataclasses import MISSING, fields, replace

import pytest

from server.config.compose import compose_run
from server.config.groups import AggregateConfig, EvaluateConfig, PrivacyConfig, RoundsConfig, TrainConfig
from server.config.identity import run_identity
from server.config.privacy import run_terms
from server.config.run import RunConfig
from shared_model.core.errors import InputError
from tests.builders.run_config import aggregate_config, plain_run, rounds_config, train_config


def test_json_round_trip():
    config = plain_run(name="a.b", seed=3, model={"adapter": "full"}, train=train_config(lr=1))
    assert RunConfig.from_json(config.to_json()) == config
    assert isinstance(config.train.lr, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "the whole must be a mapping"),
        ("{", "not valid JSON"),
        ('{"sed":1}', "unknown key sed; expected one of name, seed"),
        ("{}", "key name is missing; server/conf/base.yaml has its default"),
    ],
)
def test_what_is_no_whole_configuration_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        RunConfig.from_json(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('{"train":{"lrr":1}}', "unknown key train.lrr"),
        ('{"train":3}', "train. must be a mapping"),
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
        ('{"privacy":{"mode":"open"}}', "mode must be one of shared, local, site, masked, none"),
        ('{"privacy":{"mode":"shared"}}', "with privacy.mode=shared: privacy.cohort and privacy.sites"),
        ('{"privacy":{"mode":"shared"}}', "privacy.mode=none trains without masks and noise"),
        ('{"privacy":{"mode":"shared","cohort":9,"sites":3}}', "rounds.evaluate_every: expected 0"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    whole = json.loads(plain_run().to_json())
    for key, value in json.loads(change).items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) else value
    with pytest.raises(InputError) as caught:
        RunConfig.from_json(json.dumps(whole))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_defaults_stand_in_the_yaml_alone():
    """Two places would come to differ, as they did: a key has its default in base.yaml, or no run has one."""
    kinds = (RunConfig, TrainConfig, RoundsConfig, AggregateConfig, EvaluateConfig, PrivacyConfig)
    found = [f"{kind.__name__}.{f.name}" for kind in kinds for f in fields(kind)]
    assert "RunConfig.name" in found
    said = [
        f"{kind.__name__}.{f.name}"
        for kind in kinds
        for f in fields(kind)
        if f.default is not MISSING or f.default_factory is not MISSING
    ]
    assert said == []


def test_hydra_composes_the_typed_keys_with_overrides_and_refuses_unknown_ones():
    config = compose_run(["privacy.mode=none", "train.lr=3", "rounds.count=5", "model.adapter=lora", "name=12"])
    assert (config.train.lr, config.rounds.count, config.model["adapter"], config.name) == (3.0, 5, "lora", "12")
    for bad in ("train.lrr=3", "train.lr=abc", "rounds.count=1.5", "seed=first", "out=here"):
        with pytest.raises(InputError, match=re.escape(bad.strip("+").split("=")[0])):
            compose_run(["privacy.mode=none", bad])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rounds=6", "rounds.count=6"),
        ("privacy=none", "privacy.mode=none"),
        ("dp.epsilon=3", "privacy.epsilon=3"),
        ("round.deadline_s=60", "rounds.deadline_s=60"),
        ("+dp.z=1", "privacy.z=1"),
        ("round=3", "rounds.KEY=VALUE"),
    ],
)
def test_an_old_key_is_refused_with_its_new_name(old, new):
    with pytest.raises(InputError) as caught:
        compose_run([old])
    assert str(caught.value).startswith(f"{old}: ")
    assert str(caught.value).endswith(f"write {new}")
    assert caught.value.exit_code == 2


def test_a_mapping_for_a_group_is_no_old_key():
    assert compose_run(["privacy={mode:none,epsilon:3}", "rounds={count:4}"]).privacy.epsilon == 3.0


@pytest.mark.parametrize("key", ["public_step", "public_worst"])
def test_a_limit_below_one_is_refused(key):
    """Whoever means five per cent writes 1.05; 0.05 would take every round back."""
    with pytest.raises(InputError, match=rf"rounds.{key} must be 0 \(no limit\) or a factor from 1"):
        rounds_config(**{key: 0.05})


def test_public_patients_count_by_what_they_are_and_only_where_rounds_are_judged(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.npz", "same.npz", "other.npz"))
    for path, content in ((one, b"a"), (same, b"a"), (other, b"b")):
        path.write_bytes(content)
    config = plain_run()

    def identity(**rounds: object) -> str:
        return run_identity(replace(config, rounds=rounds_config(**rounds)), "{}", "m", b"v")

    assert identity() == identity(public_cases=str(one))
    assert identity(public_step=1.05) != identity()
    assert identity(public_step=1.05, public_cases=str(one)) == identity(public_step=1.05, public_cases=str(same))
    assert identity(public_step=1.05, public_cases=str(one)) != identity(public_step=1.05, public_cases=str(other))
    with pytest.raises(InputError, match=r"public_cases=.*cannot be read"):
        identity(public_step=1.05, public_cases=str(tmp_path / "none.npz"))


def test_identity_counts_what_determines_the_result_and_not_patience():
    config = plain_run()
    same = run_identity(config, "{}", "m", b"v")
    former = json.loads(config.to_json())
    former["model"]["base_fourier"] = 500  # in every run's file before the bases that needed it went
    assert RunConfig.from_json(json.dumps(former)) == config
    patient = replace(config, rounds=rounds_config(deadline_s=1.0, wait_for_sites_s=1.0, attempts=9))
    assert run_identity(patient, "{}", "m", b"v") == same
    others = [
        run_identity(replace(config, seed=1), "{}", "m", b"v"),
        run_identity(replace(config, aggregate=aggregate_config(lr=0.5)), "{}", "m", b"v"),
        run_identity(replace(config, rounds=rounds_config(min_sites=1)), "{}", "m", b"v"),
        run_identity(config, '{"a":1}', "m", b"v"),
        run_identity(config, "{}", "n", b"v"),
        run_identity(config, "{}", "m", b"w"),
    ]
    assert len({same, *others}) == 7


def test_a_run_of_another_site_of_the_body_is_not_judged_on_necks() -> None:
    thorax = ["model.network=pyramid", "model.body_site=thorax", "privacy.cohort=40", "privacy.sites=3"]
    with pytest.raises(InputError, match="public patients of the thorax"):
        compose_run([*thorax, "privacy.mode=shared"])
    unjudged = ["rounds.public_step=0", "rounds.public_worst=0"]
    assert compose_run([*thorax, "privacy.mode=shared", *unjudged]).model["body_site"] == "thorax"


def test_a_run_of_before_the_site_of_the_body_and_the_size_goes_on() -> None:
    config = compose_run(["privacy.mode=none"])
    before = replace(config, model={k: v for k, v in config.model.items() if k not in ("body_site", "size")})
    assert run_identity(config, "spec", "manifest", b"") == run_identity(before, "spec", "manifest", b"")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["aggregate.rule=median"], "give aggregate.weighting=equal"),
        (["aggregate.rule=median", "aggregate.weighting=equal", "privacy.mode=masked"], "needs each site's update"),
        (["aggregate.rule=product"], "expected model.adapter=lora"),
        (["aggregate.rule=product", "model.adapter=bias", "model.network=pyramid"], "expected model.adapter=lora"),
        (["train.proximal=0.1", "privacy.mode=local"], "no proximal term in privacy.mode=local"),
        (["aggregate.trim=0.6"], "trim"),
        (["train.control=scaffold", "privacy.mode=local"], "use privacy.mode=masked or none"),
        (["train.personal=table_out", "privacy.mode=site"], "use privacy.mode=masked or none"),
        (["train.control=scaffold", "aggregate.name=fedavgm"], "expected aggregate.rule=mean, name=fedavg"),
        (["train.control=scaffold", "rounds.buffer=2"], "rounds.buffer=0"),
        (["train.personal=table_out", "aggregate.rule=product", "model.adapter=lora"], "expected aggregate.rule=mean"),
        (["train.personal=9"], "starts of tensors' names"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_what_can(overrides: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        compose_run(["privacy.mode=none", "privacy.cohort=40", "privacy.sites=4", *overrides])


def test_a_run_of_before_the_strategies_goes_on() -> None:
    config = plain_run()
    older = json.loads(config.to_json())
    text = run_identity(config, "{}", "m", b"")
    assert text == run_identity(replace(config, aggregate=replace(config.aggregate, trim=0.1)), "{}", "m", b"")
    assert text != run_identity(
        replace(config, aggregate=replace(config.aggregate, rule="median", weighting="equal")), "{}", "m", b""
    )
    for kept in ({"control": "scaffold"}, {"personal": "table_out"}):
        assert text != run_identity(replace(config, train=replace(config.train, **kept)), "{}", "m", b"")
    assert {"rule", "trim"} <= set(older["aggregate"])


def test_answers_that_are_held_past_a_rounds_deadline_are_refused() -> None:
    asked = ["privacy.mode=shared", "privacy.cohort=100", "rounds.deadline_s=60"]
    with pytest.raises(InputError, match=r"privacy\.hold_s=60: no answer would come"):
        run_terms(compose_run([*asked, "privacy.hold_s=60"], 5))
    held, at_once = (run_terms(compose_run([*asked, "privacy.q=0.5", f"privacy.hold_s={s}"], 5)) for s in (30, 0))
    assert held is not None
    assert at_once is not None
    assert held.z < at_once.z, "the draw counts, so less noise keeps to the same epsilon"
