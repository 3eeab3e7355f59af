"""Mode local at a site: how much noise a step holds, and that a sum is divided by what is public."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.site.config import SiteConfig
from client.training.private_train import local_round
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.exact_sums import MaskTerms
from privacy.wire.messages import TrainTask
from shared_model.adapter.manifest import initial_vector
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=4)
TERMS = PrivacyTerms(
    mode="local", z=1.0, q=1.0, steps=1, clip=1e-3, delta=1e-5, cohort=6, sites=3, survivors=3, colluders=1, views=1
)  # fmt: skip
LR, ADAM_EPSILON = 1e-3, 1e-8


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    folder: Path = tmp_path_factory.mktemp("hospital") / "a"
    return write_hospital(folder, STYLES["balanced_7f"], 2, 1, shape=(16, 16, 16))


def one_step(site: SiteConfig, terms: PrivacyTerms) -> np.ndarray:
    """The gradient (d,) of one step, from AdamW's first move: -lr g / (|g| + epsilon)."""
    exact = MaskTerms(sites=3, survivors=3, colluders=1, cohort=terms.cohort, weighting="patients", bound=1.0)
    task = TrainTask(
        round=1, rounds=1, local_steps=1, batch_size=1, lr=LR, weight_decay=0.0, seed=0, stage="dose",
        privacy=terms.to_json(), masks=exact.to_json(),
    )  # fmt: skip
    move = local_round(site, SPEC, initial_vector(SPEC), task, terms).astype(np.float64) / LR
    moved = np.abs(move) < 0.9  # where epsilon is not lost beside the gradient
    return -move[moved] * ADAM_EPSILON / (1.0 - np.abs(move[moved]))


def test_the_noise_of_mode_local_is_what_the_terms_say(site: SiteConfig) -> None:
    """Noise of z C over the expected number of patients, here small enough for AdamW's epsilon to show it."""
    terms = replace(TERMS, cohort=1_500_000)
    found = one_step(site, terms)
    assert found.size > 10_000
    assert found.std() == pytest.approx(terms.z * terms.clip / (terms.q * terms.cohort / terms.sites), rel=0.1)


def test_a_site_of_mode_local_divides_by_the_declared_cohort(site: SiteConfig) -> None:
    """By its own count the step would be 250,000 times as long, and would tell that count."""
    assert one_step(site, replace(TERMS, cohort=1_500_000)).size > 10_000
