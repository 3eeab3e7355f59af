"""A step shared out among copies of the network, here all on the CPU, against the network alone."""

import pytest
import torch
from torch import nn

import client.training.train as training
from client.site.config import SiteConfig
from client.training.copies import Copies
from client.training.train import data_part, model_at, train_round, training_patients
from shared_model.adapter.manifest import initial_vector
from shared_model.forms.interface import Lesson, form_of
from shared_model.forms.volumes import VolumeForm
from shared_model.network.seeding import noise_generator
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.train_task import train_task

CPU = torch.device("cpu")
SPEC = ModelSpec(network="pyramid", size="small", prior="none", precision="fp32")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hospital") / "a"
    return write_hospital(folder, STYLES["balanced_7f"], 5, 1, shape=(16, 16, 16))


def test_two_devices_give_the_update_of_one(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    start, asked = initial_vector(SPEC), train_task(local_steps=3, batch_size=2)
    alone, said_alone = train_round(site, SPEC, start, asked)
    monkeypatch.setattr(training, "chosen_devices", lambda word: (CPU, CPU))
    used: list[int] = []
    losses = VolumeForm.losses

    def watched(form, network, *rest):  # type: ignore[no-untyped-def]
        used.append(id(network))
        return losses(form, network, *rest)

    monkeypatch.setattr(VolumeForm, "losses", watched)
    together, said = train_round(site, SPEC, start, asked)
    # Two patients' gradients are one sum whoever adds them: equal to the bit.
    assert together.tobytes() == alone.tobytes()
    assert said["loss"] == said_alone["loss"]
    assert len(set(used)) == 2
    assert used == used[:2] * 3


def test_gradients_of_an_uneven_step_and_none_where_no_patient_used_a_parameter(site: SiteConfig) -> None:
    form, lesson = form_of(SPEC), Lesson(stage="any2any")
    patients = [views[0] for views in training_patients(site, data_part(SPEC), b"")][:3]

    def gradients(devices: tuple[torch.device, ...]) -> dict[str, torch.Tensor | None]:
        network = model_at(site, SPEC, initial_vector(SPEC)).network
        network.zero_grad(set_to_none=True)
        copies, generator = Copies.on(devices, network), noise_generator(0, "a", "1")
        if copies is None:
            parts = form.losses(network, patients, lesson, generator)
        else:
            parts = copies.losses(form, patients, lesson, generator)
        for part in parts:
            part.backward()
        return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}

    alone, together = gradients((CPU,)), gradients((CPU, CPU))
    assert [name for name, g in alone.items() if g is None] == [name for name, g in together.items() if g is None]
    assert any(g is None for g in alone.values())
    for name, expected in alone.items():
        if expected is not None:
            torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-7)


def test_copies_take_the_weights_before_each_step_and_keep_no_gradient(site: SiteConfig) -> None:
    network: nn.Module = model_at(site, SPEC, initial_vector(SPEC)).network
    copies = Copies.on((CPU, CPU), network)
    assert copies is not None
    assert Copies.on((CPU,), network) is None
    other = copies._others[0]
    for p in network.parameters():
        p.data.add_(1.0)
    patients = [views[0] for views in training_patients(site, data_part(SPEC), b"")][:2]
    next(copies.losses(form_of(SPEC), patients, Lesson(), noise_generator(0, "a", "1")))
    for here, there in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(here, there)
        assert there.grad is None
