import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from server.config.compose import compose_run
from shared_model.core.errors import InputError
from simulations.series import ablation, poison, transfer
from simulations.series.variants import VariantList
from simulations.settings.commands import baselines_settings, evaluate_settings, run_settings
from simulations.settings.pretrain import pretrain_settings
from simulations.settings.series import ablation_settings, poison_settings, transfer_settings
from simulations.studies.audit import audit_settings
from simulations.studies.private_base import private_base_settings


def test_defaults_compose() -> None:
    settings = run_settings([])
    assert settings.study == ("federated",)
    federation = settings.federation
    assert (federation.privacy.mode, federation.privacy.clip) == ("shared", 0.05)
    assert (federation.train.local_steps, federation.train.base_rounds, federation.train.base_lr) == (1, 16, 0.2)
    assert (settings.spec.adapter, settings.spec.base, settings.everyone) == ("base", "phantom", True)
    plain = run_settings(["privacy.mode=none"]).federation
    assert (plain.train.local_steps, plain.train.base_rounds, plain.train.base_lr) == (25, 0, 0.01)
    assert (plain.model["adapter"], plain.model["base"], plain.privacy.clip) == ("full", "none", 1.0)
    assert settings.data.kind == "phantom"
    assert evaluate_settings([]).adapter == "default"
    assert pretrain_settings([]).source == "video"


def test_overrides_reach_the_federation(tmp_path: Path) -> None:
    settings = run_settings(
        ["privacy.mode=none", "rounds.count=3", "seed=7", "train.lr=1e-4", "study=[local,federated]", f"out={tmp_path}"]
    )
    assert settings.federation.rounds.count == 3
    assert settings.federation.seed == 7
    assert settings.federation.train.lr == 1e-4
    assert settings.study == ("local", "federated")
    assert "count: 3" in settings.resolved


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rouns=3", "no key 'rouns'"),
        ("train.lrr=3", "lrr"),
        ("rounds.count=0", "count"),
        ("rounds.count=many", "rounds.count=many"),
        ("study=[magic]", "study"),
        ("study=[]", "study"),
        ("engine=warp", "engine"),
        ("workers=0", "workers"),
        ("privacy.mode=lax", "mode"),
        ("model.adapter=huge", "adapter"),
        ("model.shape=[32,32,31]", "shape"),
        ("data=mars", "mars"),
        ("data.patients=1", "patients"),
        ("data=openkbp", "data.root"),
        ("not an override", "override"),
        ("+foo=1", "+foo=1"),
        ("+data.bogus=1", "+data.bogus=1"),
        ("~seed", "~seed"),
        ("out=null", "out"),
        ("train=3", "train"),
        ("train=null", "train"),
        ("seed=first", "seed=first"),
        ("privacy.cohort=4", "privacy.cohort=4"),
        ("privacy.sites=4", "privacy.sites=4"),
        ("data=3", "group"),
        ("data.kind=mars", "data.kind"),
        ("data.body_site=thorax", "data.body_site"),
        ("data.body_site=pelvis", "model.body_site=head_neck"),
        ("data.root=[1]", "data.root"),
        ("model.init_seed=99999999999999999999", "init_seed"),
    ],
)
def test_a_bad_override_is_one_line_that_names_the_key(override: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        run_settings([override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def ablation_trial(overrides: Sequence[str]) -> object:
    return ablation.trial_settings(ablation_settings(overrides), VariantList.read("paper"), "lora", 0)


def transfer_trial(overrides: Sequence[str]) -> object:
    return transfer.trial_settings(transfer_settings(overrides), "none", 1000, 0)


def poison_trial(overrides: Sequence[str]) -> object:
    return poison.trial_settings(poison_settings(overrides), -4.0, "phantoms", 0)


def private_base_on_phantoms(overrides: Sequence[str]) -> object:
    return private_base_settings(["data=phantom", *overrides])


@pytest.mark.parametrize("settings_of", [run_settings, ablation_trial, transfer_trial, poison_trial])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rounds=6", "rounds.count=6"),
        ("privacy=local", "privacy.mode=local"),
        ("dp.epsilon=3", "privacy.epsilon=3"),
        ("round.public_cases=a.npz", "rounds.public_cases=a.npz"),
    ],
)
def test_an_old_key_is_refused_with_its_new_name(
    settings_of: Callable[[Sequence[str]], object], old: str, new: str
) -> None:
    settings_of([])
    with pytest.raises(InputError, match=rf"^(row \w+: )?{re.escape(old)}: .*; write {re.escape(new)}$"):
        settings_of([old])


@pytest.mark.parametrize(
    ("settings_of", "old", "new"),
    [
        (evaluate_settings, "sampler_steps=2", "evaluate.sampler_steps=2"),
        (evaluate_settings, "candidates=2", "evaluate.candidates=2"),
        (baselines_settings, "model.base_fourier=9", "ridge_fourier=9"),
        (private_base_on_phantoms, "epsilons=[8]", "privacy.epsilon=[8]"),
        (private_base_on_phantoms, "delta=1e-6", "privacy.delta=1e-6"),
        (private_base_on_phantoms, "colluders=2", "privacy.colluders=2"),
        (audit_settings, "z=3", "privacy.z=3"),
    ],
)
def test_the_other_commands_take_the_words_of_a_run(
    settings_of: Callable[[Sequence[str]], object], old: str, new: str
) -> None:
    assert settings_of([new]) != settings_of([])
    with pytest.raises(InputError, match=rf"^(row \w+: )?{re.escape(old)}: .*; write {re.escape(new)}$"):
        settings_of([old])


def test_simulate_and_server_run_share_their_keys_and_defaults() -> None:
    """What differs is that here the end alone is scored, that sites and patients are those of the partition, and that a
    U-shaped network is small and knows nothing: the bundled one has seen OpenKBP's training patients."""
    for mode in ("none", "masked", "local", "shared", "site"):
        here = run_settings([f"privacy.mode={mode}"]).federation
        unknowing = ["model.prior=none", "model.size=small"] if mode in ("none", "masked") else []
        there = compose_run([f"privacy.mode={mode}", "privacy.cohort=1", "rounds.min_sites=3", *unknowing], sites=3)
        counted = replace(there.privacy, cohort=1, sites=1)
        rounds = replace(there.rounds, min_sites=2, evaluate_every=0)
        assert here == replace(there, privacy=counted, rounds=rounds)


def test_ray_has_one_thread_a_worker() -> None:
    with pytest.raises(InputError, match="expected threads=1"):
        run_settings(["privacy.mode=none", "engine=ray", "threads=2"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["address=10.0.0.5:6379"], "expected engine=ray, not local"),
        (["engine=ray", "address=10.0.0.5"], "expected HOST:PORT"),
        (["engine=ray", "address=10.0.0.5:99999"], "expected HOST:PORT"),
        (["engine=ray", "address=7"], "expected HOST:PORT"),
    ],
)
def test_an_address_is_that_of_a_ray_cluster(overrides: list[str], words: str) -> None:
    assert run_settings(["privacy.mode=none"]).address is None
    asked = run_settings(["privacy.mode=none", "engine=ray", "address=head.example.org:6379"])
    assert asked.address == "head.example.org:6379"
    with pytest.raises(InputError, match=words):
        run_settings(["privacy.mode=none", *overrides])


@pytest.mark.parametrize(
    ("overrides", "words"), [(["threads=2", "device=cpu"], "threads=1"), (["device=auto"], "device=cpu")]
)
def test_processes_have_one_thread_each_and_no_accelerator(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_settings(["privacy.mode=none", "engine=processes", *overrides])


def test_openkbp_needs_a_folder_that_holds_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"splits\.json"):
        run_settings(["data=openkbp", f"data.root={tmp_path}"])


@pytest.mark.parametrize(
    "override",
    [
        "split=tests",
        "evaluate.sampler_steps=0",
        "evaluate.candidates=0",
        "adapters=x",
        "adapter=null",
        "seed=-1",
        "out=null",
    ],
)
def test_bad_evaluate_settings(override: str) -> None:
    with pytest.raises(InputError):
        evaluate_settings([override])


@pytest.mark.parametrize(
    "override",
    [
        "steps=0",
        "dose_share=2",
        "patients=0",
        "lrr=1",
        "lr=fast",
        "lr=-1",
        "lr=nan",
        "grad_clip=0",
        "weight_decay=-1",
        "lr_final_fraction=x",
        "dose_share=x",
        "seed=-1",
        "out=null",
        f"out={__file__}",
    ],
)
def test_bad_pretrain_settings(override: str) -> None:
    with pytest.raises(InputError):
        pretrain_settings([override])
