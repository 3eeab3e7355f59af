import pytest
import torch

from shared_model.diffusion.modalities import Example
from shared_model.diffusion.objective import gate, velocity_loss
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture
from shared_model.network.switches import PREDICTIONS, Switches
from shared_model.patient.case import MODALITIES
from shared_model.patient.geometry import Grid

SMALL = Architecture(dim=48, heads=2, ffn_dim=64, layers=2, freq_dim=32, latent_channels=8, patch=(1, 2, 2))


def patient(name: str, *modalities: str) -> Example:
    generator = torch.Generator().manual_seed(len(name))
    latents = {m: torch.randn(8, 2, 4, 4, generator=generator) for m in modalities}
    return Example(case_id=name, grid=Grid((4, 16, 16), (3.0, 3.0, 3.0)), latents=latents)


def made(**switches: object) -> Any2AnyDiT:
    torch.manual_seed(0)
    return Any2AnyDiT(SMALL, Switches(**switches))  # type: ignore[arg-type]


def test_the_curriculum_ends_with_all_conditions_and_starts_with_any_number() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        draw = gate("any2any", MODALITIES, generator, least=1.0)
        assert set(draw.conditions) == set(MODALITIES) - {draw.target}
    numbers = {len(gate("any2any", MODALITIES, generator).conditions) for _ in range(400)}
    assert numbers == set(range(7))


def test_the_curriculum_rises() -> None:
    generator = torch.Generator().manual_seed(0)
    means = [
        sum(len(gate("any2any", MODALITIES, generator, least).conditions) for _ in range(600)) / 600
        for least in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert means == pytest.approx([6 * (1 + least) / 2 for least in (0.0, 0.25, 0.5, 0.75, 1.0)], abs=0.25)


def test_every_target_is_drawn_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [gate("any2any", ("body", "ct", "dose"), generator).target for _ in range(900)]
    assert {m: pytest.approx(300, abs=70) for m in ("body", "ct", "dose")} == {m: drawn.count(m) for m in set(drawn)}


def test_a_patient_that_lacks_a_modality_takes_none_from_its_neighbours() -> None:
    """The neighbour's plates still get gradients, and the loss is the mean over patients."""
    whole, bare = patient("a", *MODALITIES), patient("bb", "body", "dose")
    model = made()
    velocity_loss(model, [whole, bare], "dose", torch.Generator().manual_seed(0), "fp32").backward()
    assert model.patch["angle"].weight.grad is not None
    losses = []
    generator = torch.Generator().manual_seed(0)
    for one in (whole, bare):
        losses.append(velocity_loss(model, [one], "dose", generator, "fp32"))
    both = velocity_loss(model, [whole, bare], "dose", torch.Generator().manual_seed(0), "fp32")
    torch.testing.assert_close(both, (losses[0] + losses[1]) / 2)


def test_stage_a_trains_on_a_patient_without_dose() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        assert velocity_loss(made(), [patient("a", "body", "ct")], "any2any", generator, "fp32").isfinite()


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_loss_is_of_what_the_network_predicts(predicts: str) -> None:
    """An untrained head puts out about 0, so the loss is the target's mean square: 1 for eps, that of x_0 for x0."""
    model = made(predicts=predicts)
    for head in model.head.values():
        torch.nn.init.zeros_(head.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    one = patient("a", *MODALITIES)
    bigger = Example(case_id="a", grid=one.grid, latents={m: 3 * v for m, v in one.latents.items()})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss = sum(float(velocity_loss(model, [bigger], "dose", generator, "fp32")) for _ in range(60)) / 60
    x0_square = float(bigger.latents["dose"].square().mean())
    low, high = {"eps": (0.95, 1.05), "x0": (x0_square * 0.999, x0_square * 1.001), "v": (2.0, x0_square)}[predicts]
    assert low < loss < high
