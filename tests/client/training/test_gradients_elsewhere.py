"""A private gradient where the model does not lie on the CPU, and where the device's memory runs out.

The meta device computes shapes alone: an array that stayed on the CPU fails there as on a GPU. Clipping needs numbers,
which the meta device has not, so what is asked of it is the gradient as the device computes it.
"""

import logging
from dataclasses import replace

import pytest
import torch

from client.site.config import SiteConfig
from client.training.patient_gradients import Patients, patients_under
from privacy.dp.noise import NoiseStream
from privacy.dp.terms import PrivacyTerms
from shared_model.adapter.shared import adapted_model
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.train_task import train_task

TERMS = PrivacyTerms(
    mode="shared", z=1.0, q=1.0, steps=4, clip=1e6, delta=1e-5, cohort=5, sites=3, survivors=3, colluders=1, views=2
)  # fmt: skip
PYRAMID = ModelSpec(network="pyramid", size="small", prior="none", adapter="bias")
TRANSFORMER = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=1)
BASE = ModelSpec(prior="none", shape=(16, 16, 16), adapter="base", base="phantom")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hospital") / "a"
    return write_hospital(folder, STYLES["balanced_7f"], 3, 1, shape=(16, 16, 16))


def patients(site: SiteConfig, spec: ModelSpec, stage: str, device: str) -> Patients:
    asked = train_task(stage=stage, local_steps=1, batch_size=1, privacy=TERMS.to_json())
    return patients_under(adapted_model(spec).to(device), site, spec, asked, TERMS)


@pytest.mark.parametrize(
    ("spec", "stage"), [(PYRAMID, "dose"), (PYRAMID, "any2any"), (TRANSFORMER, "dose"), (BASE, "base")]
)
def test_on_another_device_the_gradient_is_computed_there(site: SiteConfig, spec: ModelSpec, stage: str) -> None:
    there, here = patients(site, spec, stage, "meta"), patients(site, spec, stage, "cpu")
    for patient in range(there.count):
        parts, expected = there.parts(patient), here.parts(patient)
        assert [None if p is None else p.shape for p in parts] == [None if p is None else p.shape for p in expected]
        assert all(p.device.type == "meta" for p in parts if p is not None)
        assert any(p is not None for p in parts)


def test_where_memory_runs_out_the_patient_counts_as_zero_and_the_log_says_what_to_do(
    site: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A site that stopped would tell that a patient too large for its device is there."""
    whole = patients(site, BASE, "base", "cpu")

    def cramped(patient: int, generator: torch.Generator) -> torch.Tensor | None:
        if patient == 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole.loss(patient, generator)

    found = replace(whole, loss=cramped)
    with caplog.at_level(logging.ERROR, "fedkt3d.site"):
        assert not found.gradient(1).any()
    told = caplog.records[-1].getMessage()
    assert told.startswith("a patient counts as zero (device cpu: out of memory while computing one patient's gradient")
    assert "use device=cpu" in told
    assert found.gradient(0).any()
    nothing = replace(whole, loss=lambda i, g: None if i == 1 else whole.loss(i, g))
    apart = found.descent_sum(NoiseStream()) - nothing.descent_sum(NoiseStream())
    assert abs(apart).max() <= 8
