import itertools
import math

import pytest
import torch
from torch import Tensor

from shared_model.channels.layout import BEAM, NAMES, TARGET_CHANNELS
from shared_model.network.pyramid import RESIDUAL_SD, SIZES, Conditions, PyramidDiT, PyramidSpec
from shared_model.network.seeding import seeded
from shared_model.network.spec import PYRAMID_SIZES
from shared_model.patient.case import CONDITIONS, MODALITIES
from tests.builders.small_case import TINY

SHAPE = (8, 16, 8)


def network(spec: PyramidSpec = TINY) -> PyramidDiT:
    """With weights that are nowhere zero, so that nothing is hidden by a zero start."""
    with seeded(0):
        made = PyramidDiT(spec)
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval()


def conditions(*names: str, beams: int = 3, shape: tuple[int, ...] = SHAPE) -> Conditions:
    random = torch.Generator().manual_seed(1)
    volumes = {m: torch.rand(1, len(NAMES[m]), *shape, generator=random) for m in names}
    each = torch.rand(beams, len(BEAM), *shape, generator=random) if "beam" in names and beams else None
    angles = None if each is None else torch.arange(beams) * 0.7
    return Conditions(volumes=volumes, spacing_mm=(5.0, 8.0, 8.0), beams=each, gantry_rad=angles)


def state(target: str = "dose", batch: int = 2, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(batch, len(TARGET_CHANNELS[target]), *shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("target", MODALITIES)
def test_any_target_from_all_the_others(target: str) -> None:
    x = state(target)
    out = network()(conditions(*(m for m in CONDITIONS if m != target)), target, x, torch.tensor([1.0, 0.4]))
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert out.isfinite().all()


def test_any_subset_of_conditions_also_none_and_each_one_counts() -> None:
    net, x, t = network(), state(batch=1), torch.tensor([0.9])
    seen = [net(conditions(*s), "dose", x, t) for n in (0, 1, 2, 6) for s in itertools.combinations(CONDITIONS, n)]
    assert all(out.isfinite().all() for out in seen)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_the_target_cannot_be_its_own_condition() -> None:
    with pytest.raises(ValueError, match="also a condition"):
        network()(conditions("ct"), "ct", state("ct"), torch.ones(2))


def test_at_full_noise_nothing_of_the_state_enters() -> None:
    net, seen = network(), network().remember(conditions("ptv", "body"))
    ones = torch.ones(2)
    a, b = net.denoise(seen, "dose", state(), ones), net.denoise(seen, "dose", 7 * state(), ones)
    assert torch.equal(a, b)
    assert torch.allclose(a[0], a[1], atol=1e-6)


def test_without_noise_it_returns_its_input_whatever_the_weights() -> None:
    x = state()
    out = network()(conditions("ptv", "body"), "dose", x, torch.tensor([1e-6, 0.0]))
    assert torch.allclose(out, x, atol=1e-4)


def test_the_head_has_the_rank_of_its_patch() -> None:
    """How the network's own answer changes with the state is of full rank on every 2x2x2 patch, and on all of 8^3."""
    net = network()
    seen, t = net.remember(conditions("ptv", shape=(8, 8, 8))), torch.tensor([0.5])
    x = state(batch=1, shape=(8, 8, 8))
    whole = torch.autograd.functional.jacobian(lambda v: net.denoise(seen, "dose", v, t).flatten(), x)
    alpha = sigma = math.sqrt(0.5)
    weight = alpha * RESIDUAL_SD**2 / (alpha**2 * RESIDUAL_SD**2 + sigma**2)
    answer = whole.reshape(512, 512) - weight * torch.eye(512)
    assert torch.linalg.matrix_rank(answer) == 512
    patch = (torch.arange(512).view(8, 8, 8)[:2, :2, :2]).flatten()
    assert torch.linalg.matrix_rank(answer[patch][:, patch]) == 8


def test_remembered_conditions_serve_every_time_and_candidate_exactly() -> None:
    net, given = network(), conditions(*CONDITIONS)
    seen, x, t = net.remember(given), state(batch=3), torch.tensor([1.0, 0.7, 0.2])
    together = net.denoise(seen, "dose", x, t)
    assert torch.equal(together, net(given, "dose", x, t))
    for k in range(3):
        one = net.denoise(seen, "dose", x[k : k + 1], t[k : k + 1])
        assert torch.allclose(one[0], together[k], atol=1e-5)


def test_beams_have_no_order_and_any_number() -> None:
    net, given = network(), conditions("beam", beams=5)
    assert given.beams is not None
    assert given.gantry_rad is not None
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = Conditions(
        volumes=given.volumes, spacing_mm=given.spacing_mm, beams=given.beams[order], gantry_rad=given.gantry_rad[order]
    )
    x, t = state(batch=1), torch.tensor([1.0])
    assert torch.allclose(net(given, "dose", x, t), net(mixed, "dose", x, t), atol=1e-5)
    assert net(conditions("beam", beams=1), "dose", x, t).isfinite().all()
    assert net(conditions("beam", beams=0), "dose", x, t).isfinite().all()


def test_every_size_that_a_specification_may_name_is_there_and_small_is_the_smaller() -> None:
    assert set(SIZES) == set(PYRAMID_SIZES)
    with torch.device("meta"):
        count = {size: sum(p.numel() for p in PyramidDiT(spec).parameters()) for size, spec in SIZES.items()}
    assert count["small"] < 0.25 * count["base"]


def test_the_default_fits_a_message_and_needs_no_cpu() -> None:
    """On the meta device a constant that was made on the CPU fails; bf16 weights are to stay within 24 MB."""
    with torch.device("meta"):
        net = PyramidDiT()
    assert 8e6 < sum(p.numel() for p in net.parameters()) < 12e6
    given = conditions(*CONDITIONS, beams=9)
    assert given.beams is not None
    assert given.gantry_rad is not None
    there = Conditions(
        volumes={m: v.to("meta") for m, v in given.volumes.items()},
        spacing_mm=given.spacing_mm,
        beams=given.beams.to("meta"),
        gantry_rad=given.gantry_rad.to("meta"),
    )
    out = net(there, "dose", state().to("meta"), torch.ones(2, device="meta"))
    out.square().mean().backward()  # type: ignore[no-untyped-call]
    assert out.shape == state().shape
    assert net.mix.weight.grad is not None
