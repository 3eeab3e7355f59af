"""The key ``device`` of site.yaml and `client predict --device`: what is asked for is where the site computes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.cli import app
from client.data.case_files import save_case
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.training.train import evaluate_round, train_round
from privacy.wire.messages import EvaluateTask
from shared_model.adapter.manifest import initial_vector
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from tests.builders.small_study import ellipsoid_case
from tests.builders.train_task import train_task

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=1)
nowhere = pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    torch.set_num_threads(1)
    for name in ("a", "b"):
        save_case(tmp_path / f"{name}.npz", ellipsoid_case(name))
    path = tmp_path / "site.yaml"
    path.write_text("{site: n, data: cases, root: ., train: [a], validation: [b], device: cpu}")
    return SiteConfig.load(path)


def test_a_word_that_is_none_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    for word in ("gpu", "cuda:x", "[cpu]", "0"):
        path.write_text(f"{{site: n, data: cases, root: r, train: [a], validation: [],\n device: {word}}}")
        with pytest.raises(InputError, match=r"site.yaml:2: device: .*expected auto, cpu"):
            SiteConfig.load(path)
    path.write_text("{site: n, data: cases, root: r, train: [a], validation: []}")
    assert SiteConfig.load(path).device == "auto"


@nowhere
def test_training_and_scoring_are_where_the_file_says(site: SiteConfig) -> None:
    start, asked = initial_vector(SPEC), train_task(local_steps=1, batch_size=1)
    update, _ = train_round(site, SPEC, start, asked)
    auto, _ = train_round(replace(site, device="auto"), SPEC, start, asked)
    assert update.tobytes() == auto.tobytes()
    elsewhere = replace(site, device="cuda:1")
    with pytest.raises(InputError, match=r"device=cuda:1: torch .* finds no accelerator here; expected device=cpu"):
        train_round(elsewhere, SPEC, start, asked)
    scoring = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)
    with pytest.raises(InputError, match="device=cuda:1"):
        evaluate_round(elsewhere, SPEC, start, scoring)


@nowhere
def test_a_prediction_is_where_the_command_says_and_else_where_the_home_says(site: SiteConfig, tmp_path: Path) -> None:
    home = ClientHome(folder=tmp_path / "home", site="n", consortium="0" * 32, name="c", server="localhost:1")
    home.folder.mkdir()
    home.save()
    replace(site, device="cuda").save(home.site_config)
    study, out = str(tmp_path / "b.npz"), tmp_path / "out"

    def predict(*more: str) -> None:
        app(["predict", study, "--out", str(out), "--home", str(home.folder), *more], standalone_mode=False)

    with pytest.raises(InputError, match=r"device=cuda: .*no accelerator"):
        predict()
    with pytest.raises(InputError, match="device='gpu': expected auto, cpu"):
        predict("--device", "gpu")
    assert not out.exists()
    predict("--device", "cpu", "--once")
    assert (out / "dose.npz").is_file()
