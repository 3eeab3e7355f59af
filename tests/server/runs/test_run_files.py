"""What `server run` writes for Flower and reads back, and how it composes its configuration."""

import json
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from hypothesis import given
from hypothesis import strategies as st

from server.config.compose import compose_run
from server.runs.bundle import write_bundle, write_run_config
from server.runs.index import Tail
from shared_model.core.errors import InputError


def test_flower_takes_the_bundle_and_it_holds_no_code(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    config, _ = load_and_validate(bundle / "pyproject.toml", check_module=False)
    assert config["tool"]["flwr"]["app"]["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert build_fab_from_disk(bundle)
    assert [path.name for path in bundle.rglob("*") if path.is_file()] == ["pyproject.toml"]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_configuration_text_survives_toml(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = write_run_config(
            Path(folder) / "run.toml", config=text, sha256="00", out=Path('/a b/"c"'), home=Path("r")
        )
        assert tomllib.loads(path.read_text(encoding="utf-8")) == {
            "config": text,
            "config-sha256": "00",
            "out": '/a b/"c"',
            "home": "r",
        }


def test_the_run_config_declares_what_the_bundle_declares(tmp_path: Path) -> None:
    declared = tomllib.loads((write_bundle(tmp_path) / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    written = write_run_config(tmp_path / "run.toml", config="", sha256="", out=tmp_path, home=tmp_path)
    assert set(declared) == set(tomllib.loads(written.read_text()))


def test_tail_gives_each_whole_line_once_and_nothing_older(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "old"}\n')
    tail = Tail(path)
    with path.open("a") as file:
        file.write('{"kind": "a"}\nrubbish\n{"ki')
        file.flush()
        assert list(tail.new()) == [{"kind": "a"}]
        file.write('nd": "b"}\n')
        file.flush()
        assert list(tail.new()) == [{"kind": "b"}]
    assert list(tail.new()) == []


def test_without_another_word_a_run_is_private_and_the_rest_follows_from_that() -> None:
    config = compose_run(["privacy.cohort=40"], sites=5)
    assert (config.privacy.mode, config.privacy.sites, config.rounds.min_sites) == ("shared", 5, 4)
    assert (config.train.local_steps, config.rounds.evaluate_every, config.train.base_rounds) == (1, 0, 16)
    assert (config.model["adapter"], config.model["base"]) == ("base", "phantom")
    for mode, evaluate_every, least in (("none", 1, 2), ("local", 0, 4)):
        plain = compose_run([f"privacy.mode={mode}", "privacy.cohort=40"], sites=5)
        assert (plain.train.local_steps, plain.train.base_rounds) == (25, 0)
        assert (plain.rounds.evaluate_every, plain.rounds.min_sites) == (evaluate_every, least)
        assert (plain.model["adapter"], plain.model["base"]) == ("full", "none")
    with pytest.raises(InputError, match=r"privacy\.mode=none trains without masks and noise"):
        compose_run([], sites=5)


def test_compose_takes_overrides_of_every_section() -> None:
    config = compose_run(["privacy.mode=none", "rounds.count=3", "train.lr=1e-5", "model.adapter=lora", "name=x1"])
    assert (config.rounds.count, config.train.lr, config.model["adapter"], config.name) == (3, 1e-5, "lora", "x1")
    assert config == type(config).from_json(config.to_json())
    assert json.loads(config.to_json())["model"]["shape"] == [32, 32, 32]
    asked = ["model.network=transformer", "model.switches.attention=condition-causal", "train.any2any_share=0.5"]
    causal = compose_run(["privacy.mode=none", *asked])
    assert causal.model["switches"]["attention"] == "condition-causal"


@pytest.mark.parametrize("key", ["initial", "rounds.public_cases"])
def test_a_path_is_made_whole_since_the_run_starts_elsewhere(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"{key}=here.npz: no such file"):
        compose_run(["privacy.mode=none", f"{key}=here.npz"])
    (tmp_path / "here.npz").touch()
    config = compose_run(["privacy.mode=none", f"{key}=here.npz"])
    assert str(tmp_path / "here.npz") in (config.initial, config.rounds.public_cases)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("rounds.cuont=3", "cuont"),
        ("rounds.count=many", "rounds.count"),
        ("rounds.count=0", "count"),
        ("model.colour=red", "model.colour"),
        ("model.adapter=all", "model.adapter"),
        ("model.switches.colour=red", "colour"),
        ("model.switches.rope=spiral", "model.switches.rope"),
        ("train.any2any_share=2.0", "any2any_share"),
        ("name=../up", "name"),
        ("a b", "a b"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(override: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        compose_run([override])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
