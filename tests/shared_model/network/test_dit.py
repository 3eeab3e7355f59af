import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture
from shared_model.network.tokens import rope_phases, unpatchify

SMALL = Architecture(dim=48, heads=2, ffn_dim=64, layers=2, freq_dim=32, latent_channels=8, patch=(1, 2, 2))


def latents(*names: str, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(batch, 8, 4, 4, 4, generator=generator) for name in names}


@pytest.fixture
def model() -> Any2AnyDiT:
    torch.manual_seed(0)
    return Any2AnyDiT(SMALL).eval()


def test_the_bundled_size_trains_on_a_laptop() -> None:
    assert 1_000_000 <= sum(p.numel() for p in Any2AnyDiT(Architecture()).parameters()) <= 5_000_000


def test_any_subset_of_conditions_and_any_target(model: Any2AnyDiT) -> None:
    noisy, t = latents("x")["x"], torch.tensor([0.3, 0.9])
    for target, conditions in (("dose", ("ct", "ptv", "angle")), ("ct", ("dose",)), ("oar", ())):
        assert model(latents(*conditions), target, noisy, t).shape == noisy.shape


def test_order_of_the_conditions_does_not_matter(model: Any2AnyDiT) -> None:
    given = latents("ct", "ptv", "oar")
    noisy, t = latents("x")["x"], torch.tensor([0.3, 0.9])
    turned = {name: given[name] for name in ("oar", "ct", "ptv")}
    assert torch.equal(model(given, "dose", noisy, t), model(turned, "dose", noisy, t))


def test_a_target_among_the_conditions_is_refused(model: Any2AnyDiT) -> None:
    with pytest.raises(ValueError, match="also a condition"):
        model(latents("dose"), "dose", latents("x")["x"], torch.tensor([0.3, 0.9]))


def test_every_condition_the_time_and_the_role_reach_the_output(model: Any2AnyDiT) -> None:
    given, noisy, t = latents("ct", "ptv"), latents("x")["x"], torch.tensor([0.3, 0.9])
    before = model(given, "dose", noisy, t)
    assert not torch.allclose(before, model({**given, "ptv": given["ptv"] + 1}, "dose", noisy, t))
    assert not torch.allclose(before, model(given, "dose", noisy, t * 0.5))
    with torch.no_grad():
        model.role.weight[1] += 0.5
    assert not torch.allclose(before, model(given, "dose", noisy, t))


def test_samples_of_a_batch_do_not_mix(model: Any2AnyDiT) -> None:
    given, noisy, t = latents("ct", "ptv"), latents("x")["x"], torch.tensor([0.3, 0.9])
    both = model(given, "dose", noisy, t)
    one = model({k: v[:1] for k, v in given.items()}, "dose", noisy[:1], t[:1])
    torch.testing.assert_close(both[:1], one, atol=1e-5, rtol=1e-5)


def test_phases_of_slot_0_are_those_of_the_wan_backbone() -> None:
    head_dim, grid = 64, (3, 4, 5)
    wan = WanRotaryPosEmbed(head_dim, (1, 1, 1), 32)
    cos, sin = wan(torch.zeros(1, 4, *grid))
    phases = rope_phases([0], grid, head_dim)
    torch.testing.assert_close(phases.cos().float(), cos.flatten(0, 2)[:, ::2].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(phases.sin().float(), sin.flatten(0, 2)[:, ::2].float(), atol=1e-6, rtol=0)


def test_slots_turn_by_the_same_angle_everywhere() -> None:
    """Inside any slot relative phases are the backbone's own; between slots they differ."""
    n = 3 * 4 * 5
    phases = rope_phases([0, 3], (3, 4, 5), 64)
    turn = phases[n:] - phases[:n]
    torch.testing.assert_close(turn, turn[:1].expand_as(turn))
    assert float(turn.abs().max()) > 0.5


def test_unpatchify_puts_every_token_where_its_patch_was() -> None:
    volume = torch.arange(2 * 8 * 2 * 4 * 4, dtype=torch.float32).reshape(2, 8, 2, 4, 4)
    blocks = volume.reshape(2, 8, 2, 1, 2, 2, 2, 2)
    tokens = blocks.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(2, 8, -1)
    assert torch.equal(unpatchify(tokens, (2, 2, 2), (1, 2, 2), 8), volume)


def test_an_estimate_reaches_the_dose_alone_and_starts_without_effect(model: Any2AnyDiT) -> None:
    given, noisy, t = latents("ct", "ptv"), latents("x")["x"], torch.tensor([0.3, 0.9])
    before = model(given, "dose", noisy, t)
    model.take_estimate()
    estimate = latents("estimate")["estimate"]
    assert torch.equal(model(given, "dose", noisy, t, estimate_bczyx=estimate), before)
    with torch.no_grad():
        model.estimate.weight.normal_()
    after = model(given, "dose", noisy, t, estimate_bczyx=estimate)
    assert not torch.allclose(after, before)
    # A token's estimate enters at its own place: elsewhere only attention can carry it.
    assert model(given, "body", noisy, t).shape == noisy.shape
    with pytest.raises(ValueError, match="estimate"):
        model(given, "dose", noisy, t)
    with pytest.raises(ValueError, match="estimate"):
        model(given, "body", noisy, t, estimate_bczyx=estimate)


def test_a_model_without_an_estimate_refuses_one(model: Any2AnyDiT) -> None:
    with pytest.raises(ValueError, match="estimate"):
        model(latents("ct"), "dose", latents("x")["x"], torch.tensor([0.3, 0.9]), estimate_bczyx=latents("y")["y"])
