"""The U-shaped network in a federation: rounds, scores, private gradients, through the same functions as any form."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.site.config import SiteConfig
from client.training.patient_gradients import patients_of
from client.training.train import evaluate_round, train_round
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import EvaluateTask
from shared_model.adapter.manifest import initial_vector
from shared_model.forms.interface import form_of
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.train_task import train_task

SPEC = ModelSpec(network="pyramid", prior="none", adapter="lora+embeddings", rank=2)
EVALUATE = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hospital") / "a"
    return write_hospital(folder, STYLES["balanced_7f"], 4, 1, shape=(16, 16, 16))


def test_a_round_replays_to_the_bit_with_and_without_kept_channels(site: SiteConfig, tmp_path: Path) -> None:
    start = initial_vector(SPEC)
    first, metrics = train_round(site, SPEC, start, train_task())
    again, _ = train_round(replace(site, cache=tmp_path), SPEC, start, train_task())
    assert first.tobytes() == again.tobytes()
    assert metrics["loss"] > 0
    assert np.abs(first).max() > 0
    assert train_round(site, SPEC, start, train_task(round=2))[0].tobytes() != first.tobytes()


def test_the_rate_rises_anew_in_each_round(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser starts anew each round, and its first steps have the size of the rate whatever the gradient."""
    rates: list[float] = []

    class Noting(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            assert all(not self.state[p] for g in self.param_groups for p in g["params"]) == (len(rates) % 10 == 0)
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Noting)
    spec = replace(SPEC, size="small", adapter="head")
    first, _ = train_round(site, spec, initial_vector(spec), train_task(local_steps=10, batch_size=1))
    train_round(site, spec, (initial_vector(spec) + first).astype(np.float32), train_task(round=2, local_steps=10))
    assert rates == pytest.approx(2 * [5e-4, *[1e-3] * 9])
    rates.clear()
    transformer = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=1)
    train_round(site, transformer, initial_vector(transformer), train_task(local_steps=10, batch_size=1))
    assert rates == pytest.approx([1e-3] * 10)


def test_the_first_step_is_as_short_as_its_rate(site: SiteConfig) -> None:
    """What the warm-up is for: AdamW's first step moves each weight by the rate."""
    spec = replace(SPEC, size="small", adapter="head")
    for steps, share in ((1, 1.0), (4, 1.0), (10, 0.5), (50, 0.1)):
        warmup = form_of(spec).warmup(steps)
        assert 1 / warmup == pytest.approx(share)
    update, _ = train_round(site, spec, initial_vector(spec), train_task(local_steps=1, batch_size=1))
    assert np.abs(update).max() == pytest.approx(1e-3, rel=1e-3)


def test_training_lowers_the_loss(site: SiteConfig) -> None:
    spec = replace(SPEC, adapter="full")
    start = initial_vector(spec)
    _, before = train_round(site, spec, start, train_task(local_steps=4, batch_size=1, lr=1e-9))
    update, _ = train_round(site, spec, start, train_task(local_steps=15, batch_size=1, lr=3e-3))
    _, after = train_round(
        site, spec, (start + update).astype(np.float32), train_task(local_steps=4, batch_size=1, lr=1e-9)
    )
    assert after["loss"] < 0.9 * before["loss"]


def test_scores_of_the_validation_patients(site: SiteConfig) -> None:
    metrics = evaluate_round(site, SPEC, initial_vector(SPEC), EVALUATE)
    assert metrics["patients"] == len(site.validation)
    assert 0 < metrics["dose_score_gy"] < 60


def test_a_patients_private_gradient_is_clipped_and_averages_their_views(site: SiteConfig) -> None:
    terms = PrivacyTerms(
        mode="shared", z=1.0, q=1.0, steps=4, clip=0.01, delta=1e-5, cohort=4, sites=3, survivors=3, colluders=1,
        views=2,
    )  # fmt: skip
    spec = replace(SPEC, adapter="bias")
    asked = train_task(local_steps=1, batch_size=1, privacy=terms.to_json())
    patients = patients_of(site, spec, initial_vector(spec), asked, terms)
    gradient = patients.gradient(0)
    assert gradient.shape == initial_vector(spec).shape
    assert 0 < float(gradient.norm()) <= 0.01 * (1 + 1e-6)
    assert torch.equal(patients.gradient(0), gradient)
    assert not torch.equal(patients.gradient(1), gradient)
