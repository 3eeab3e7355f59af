from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.site.config import SiteConfig
from client.training.train import evaluate_round, pull_back, train_round
from privacy.wire.messages import EvaluateTask
from shared_model.adapter.manifest import initial_vector
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.train_task import train_task

SPEC = ModelSpec(prior="none", shape=(16, 16, 16))
EVALUATE = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    folder = tmp_path_factory.mktemp("hospital") / "a"
    return write_hospital(folder, STYLES["balanced_7f"], 5, 1, shape=(16, 16, 16))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_round_replays_to_the_bit_and_depends_on_seed_and_round(site: SiteConfig) -> None:
    start = initial_vector(SPEC)
    first, metrics = train_round(site, SPEC, start, train_task())
    again, _ = train_round(site, SPEC, start, train_task())
    assert first.tobytes() == again.tobytes()
    assert first.shape == start.shape
    assert metrics["loss"] > 0
    for other in (train_task(seed=1), train_task(round=2)):
        assert train_round(site, SPEC, start, other)[0].tobytes() != first.tobytes()


def test_training_lowers_the_loss(site: SiteConfig) -> None:
    start = initial_vector(SPEC)
    update, before = train_round(site, SPEC, start, train_task(local_steps=20))
    _, after = train_round(site, SPEC, (start + update).astype(np.float32), train_task(local_steps=20, lr=1e-9))
    assert after["loss"] < 0.9 * before["loss"]


def test_the_proximal_pull_is_the_gradient_of_half_the_squared_distance() -> None:
    weights, start = torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.tensor([0.5, 3.0])
    weights.grad = torch.tensor([0.1, 0.2])
    pull_back([weights], [start], 4.0)
    other = torch.nn.Parameter(weights.detach().clone())
    (4.0 / 2 * ((other - start) ** 2).sum()).backward()
    assert other.grad is not None
    torch.testing.assert_close(weights.grad, torch.tensor([0.1, 0.2]) + other.grad)


def test_a_proximal_term_keeps_a_site_near_the_shared_weights(site: SiteConfig) -> None:
    start = initial_vector(SPEC)
    norms = [
        float(np.linalg.norm(train_round(site, SPEC, start, train_task(local_steps=8, lr=1e-2, proximal=mu))[0]))
        for mu in (0.0, 0.001, 0.1)
    ]
    assert norms[0] > 1.2 * norms[1] > 1.2 * norms[2]
    plain = train_round(site, SPEC, start, train_task())[0]
    assert plain.tobytes() == train_round(site, SPEC, start, train_task(proximal=0.0))[0].tobytes()


def test_only_the_adapter_moves(site: SiteConfig) -> None:
    spec = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=2)
    update, _ = train_round(site, spec, initial_vector(spec), train_task())
    assert update.size == initial_vector(spec).size
    assert np.abs(update).max() > 0


def test_fine_tuning_before_the_score_is_training_and_then_scoring(site: SiteConfig) -> None:
    start = initial_vector(SPEC)
    task = replace(EVALUATE, tune_steps=10, tune_lr=2e-3, tune_batch=2)
    tuned = evaluate_round(site, SPEC, start, task)
    update, _ = train_round(site, SPEC, start, train_task(rounds=1, local_steps=10, lr=2e-3, batch_size=2))
    assert tuned == evaluate_round(site, SPEC, (start + update).astype(np.float32), EVALUATE)
    plain = evaluate_round(site, SPEC, start, EVALUATE)
    assert tuned["dose_score_gy"] < plain["dose_score_gy"]
    assert plain == evaluate_round(site, SPEC, start, replace(EVALUATE, tune_lr=1.0)), "no steps, no change"


def test_scores_of_the_validation_patients(site: SiteConfig) -> None:
    metrics = evaluate_round(site, SPEC, initial_vector(SPEC), EVALUATE)
    assert metrics["patients"] == len(site.validation)
    assert 0 < metrics["dose_score_gy"] < 60


def test_a_site_without_training_patients_is_refused(site: SiteConfig) -> None:
    empty = SiteConfig(site="b", data="cases", root=site.root, train=(), validation=site.validation)
    with pytest.raises(InputError, match="no training cases"):
        train_round(empty, SPEC, initial_vector(SPEC), train_task())


def test_a_missing_patient_names_the_file(site: SiteConfig, tmp_path: Path) -> None:
    lost = SiteConfig(site="c", data="cases", root=tmp_path, train=("gone",), validation=())
    with pytest.raises(InputError, match=r"gone\.npz"):
        train_round(lost, SPEC, initial_vector(SPEC), train_task())


def test_the_residual_form_trains_replays_and_starts_from_the_base(site: SiteConfig) -> None:
    spec = replace(SPEC, base="phantom")
    start = initial_vector(spec)
    update, _ = train_round(site, spec, start, train_task())
    again, _ = train_round(site, spec, start, train_task())
    assert update.tobytes() == again.tobytes()
    plain = initial_vector(SPEC)
    residual, dose = evaluate_round(site, spec, start, EVALUATE), evaluate_round(site, SPEC, plain, EVALUATE)
    assert residual["dose_score_gy"] < 0.7 * dose["dose_score_gy"], "untrained, it is near the base"


BASED = ModelSpec(prior="none", shape=(16, 16, 16), base="phantom")


def test_rounds_of_the_base_train_it_alone_and_later_rounds_the_rest(site: SiteConfig) -> None:
    start = initial_vector(BASED)
    names = [(name, p.numel()) for name, p in trainable(adapted_model(BASED)).items()]
    of_base = np.concatenate([np.full(size, name.startswith("voxel.")) for name, size in names])
    update, metrics = train_round(site, BASED, start, train_task(stage="base", local_steps=20))
    assert np.abs(update[of_base]).max() > 0
    assert not update[~of_base].any()
    assert metrics["loss"] > 0
    based = (start + update).astype(np.float32)
    after, _ = train_round(site, BASED, based, train_task())
    assert not after[of_base].any()
    assert np.abs(after[~of_base]).max() > 0
    # The rest learns dose minus that base: from another base it learns something else.
    other, _ = train_round(site, BASED, start, train_task())
    assert other.tobytes() != after.tobytes()
    scores = [evaluate_round(site, BASED, v, EVALUATE)["dose_score_gy"] for v in (start, based, start)]
    assert scores[0] == scores[2] != scores[1]


def test_a_model_without_such_a_base_refuses_its_rounds(site: SiteConfig) -> None:
    with pytest.raises(InputError, match=r"model\.base=phantom"):
        train_round(site, SPEC, initial_vector(SPEC), train_task(stage="base"))
