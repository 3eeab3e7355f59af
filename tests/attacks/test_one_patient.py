"""One patient must not change whether a site answers; terms that are chosen later are counted as such."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.training.patient_gradients import patients_of
from client.training.private_train import private_release
from client.training.train import train_round
from privacy.dp.accountant import adaptive_epsilon, epsilon
from privacy.dp.noise import NoiseStream
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import TrainTask
from shared_model.adapter.manifest import initial_vector
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=1, precision="fp32")
BASE = ModelSpec(prior="none", shape=(16, 16, 16), adapter="base", base="phantom")
TERMS = PrivacyTerms(
    mode="shared", z=1.0, q=1.0, steps=4, clip=1.0, delta=1e-5, cohort=5, sites=3, survivors=3, colluders=1, views=2
)  # fmt: skip


def task(stage: str) -> TrainTask:
    return TrainTask(
        round=1, rounds=4, local_steps=1, batch_size=1, lr=1e-3, seed=0, stage=stage, privacy=TERMS.to_json()
    )


@pytest.mark.parametrize(("spec", "stage"), [(SPEC, "dose"), (BASE, "base")])
def test_a_truncated_case_counts_as_zero_and_the_site_answers(
    tmp_path: Path, spec: ModelSpec, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """M5: before, the site refused with code `data`, so one patient's file decided whether it answered."""
    whole = write_hospital(tmp_path / "a", STYLES["balanced_7f"], 4, 1, shape=(16, 16, 16))
    vector, asked = initial_vector(spec), task(stage)
    before = patients_of(whole, spec, vector, asked, TERMS)
    expected = [before.gradient(i) for i in range(before.count)]
    bad = replace(whole, site="again")
    victim = bad.train[1]
    path = next(path for path in bad.root.rglob(f"{victim}.npz"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError):
        train_round(bad, spec, vector, replace(asked, privacy=""))  # without privacy it is an error, as it should be
    after = patients_of(bad, spec, vector, asked, TERMS)
    assert after.count == before.count
    assert not after.gradient(1).any()
    assert expected[1].any()
    named = [record.getMessage() for record in caplog.records]
    total = after.descent_sum(NoiseStream())
    assert total.any()
    released = private_release(bad, spec, vector, asked, TERMS)
    assert released.shape == total.shape
    assert all(victim not in text or "counts as zero" in text for text in named)


def test_a_patient_whose_training_fails_counts_as_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = write_hospital(tmp_path / "b", STYLES["balanced_7f"], 4, 1, shape=(16, 16, 16))
    found = patients_of(site, SPEC, initial_vector(SPEC), task("dose"), TERMS)
    loss = found.loss

    def fails(patient: int, generator: object) -> object:
        if patient == 1:
            raise RuntimeError("shapes of one patient do not fit")
        return loss(patient, generator)  # type: ignore[arg-type]

    broken = replace(found, loss=fails)  # type: ignore[arg-type]
    assert not broken.gradient(1).any()
    assert np.any(broken.descent_sum(NoiseStream()))


def test_terms_that_are_chosen_after_releases_are_counted_by_a_filter() -> None:
    """M9: composing distributions of adaptively chosen mechanisms is no filter; Renyi divergences and Gaussians are."""
    gaussians = {(4.0, 1.0): 3, (2.0, 1.0): 1}
    assert adaptive_epsilon(gaussians, 1e-5) == epsilon(gaussians, 1e-5)
    one = {(1.0, 0.1): 50}
    assert adaptive_epsilon(one, 1e-5) == epsilon(one, 1e-5)
    mixed = {(1.0, 0.1): 50, (2.0, 0.2): 50}
    assert adaptive_epsilon(mixed, 1e-5) > epsilon(mixed, 1e-5)
