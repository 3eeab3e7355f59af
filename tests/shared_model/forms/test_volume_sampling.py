import numpy as np
import pytest
import torch
from torch import Tensor

from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.diffusion.modalities import mirror
from shared_model.forms import volume_sampling
from shared_model.forms.volume_sampling import VolumeDenoiser, on_grid, patient_noise, predicted, samples
from shared_model.network.pyramid import PyramidDiT
from shared_model.network.seeding import seeded
from tests.builders.small_case import TINY, small_case

CASE = small_case()
PATIENT = patient_channels(CASE)


@pytest.fixture(scope="module")
def network() -> PyramidDiT:
    with seeded(0):
        made = PyramidDiT(TINY)
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval()


def test_doses_are_of_the_body_and_not_negative(network: PyramidDiT) -> None:
    dose = predicted(network, PATIENT, steps=2, candidates=3, precision="fp32")
    assert dose.shape == (3, *PATIENT.stack.shape[:3])
    assert not np.array_equal(dose[0], dose[1])
    whole = on_grid(dose, PATIENT, CASE.grid.shape)
    assert whole.shape == (3, *CASE.grid.shape)
    assert not whole[:, ~CASE.body].any()
    assert (whole >= 0).all()


def test_one_step_is_the_mean_and_the_same_for_every_seed(network: PyramidDiT) -> None:
    one, other = (predicted(network, PATIENT, candidates=2, seed=s, precision="fp32") for s in (0, 1))
    assert np.array_equal(one, other)
    assert np.array_equal(one[0], one[1])


def test_with_flips_a_mirrored_patient_gets_the_mirrored_dose(network: PyramidDiT) -> None:
    dose = predicted(network, PATIENT, flips=True, precision="fp32")
    there = predicted(network, patient_channels(mirror(CASE)), flips=True, precision="fp32")
    assert np.allclose(there[..., ::-1], dose, atol=0.02 * dose.max())


def test_conditions_can_be_left_out(network: PyramidDiT) -> None:
    whole = predicted(network, PATIENT, precision="fp32")
    without = predicted(network, PATIENT, conditions=("ptv", "body"), precision="fp32")
    assert not np.allclose(whole, without)


class CrampedDenoiser(VolumeDenoiser):
    """The real one on a device whose memory holds so many candidates at once."""

    fits = 2
    tried: list[int]

    def __call__(self, x_t: Tensor, t_b: Tensor) -> Tensor:
        self.tried.append(len(x_t))
        if len(x_t) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        return super().__call__(x_t, t_b)


def test_where_memory_runs_out_smaller_batches_draw_the_same_doses(
    network: PyramidDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = patient_noise(PATIENT, 5, torch.Generator().manual_seed(0))
    whole = samples(network, PATIENT, noise, steps=2, batch=5, precision="fp32")
    monkeypatch.setattr(volume_sampling, "VolumeDenoiser", CrampedDenoiser)
    monkeypatch.setattr(CrampedDenoiser, "tried", [], raising=False)
    found = samples(network, PATIENT, noise, steps=2, batch=5, precision="fp32")
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)
    # Two steps each of two, two and one candidates, after the five that did not fit.
    assert CrampedDenoiser.tried == [5, 2, 2, 2, 2, 1, 1]
    monkeypatch.setattr(CrampedDenoiser, "fits", 1)
    torch.testing.assert_close(
        samples(network, PATIENT, noise, steps=2, batch=5, precision="fp32"), whole, atol=1e-5, rtol=1e-4
    )
    monkeypatch.setattr(CrampedDenoiser, "fits", 0)
    with pytest.raises(InputError, match=r"device cpu: out of memory while drawing one dose; .*use device=cpu"):
        samples(network, PATIENT, noise, steps=2, batch=5, precision="fp32")
