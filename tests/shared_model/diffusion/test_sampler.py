from dataclasses import replace

import pytest
import torch

from shared_model.diffusion.sampler import Sampling, sample_latents
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture
from shared_model.network.switches import PREDICTIONS, Switches

SMALL = Architecture(dim=48, heads=2, ffn_dim=64, layers=2, freq_dim=32, latent_channels=32, patch=(1, 2, 2))
HOW = Sampling(steps=4, precision="fp32")


def made(**switches: object) -> Any2AnyDiT:
    torch.manual_seed(0)
    return Any2AnyDiT(SMALL, Switches(**switches)).eval()  # type: ignore[arg-type]


def latents(*shape: int, names: tuple[str, ...] = ("ct", "ptv", "body")) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(32, *shape, generator=generator) for name in names}


def noise(candidates: int, *shape: int) -> torch.Tensor:
    return torch.randn(candidates, 32, *shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_kept_conditions_sample_the_same(steps: int, predicts: str) -> None:
    model, given, start = made(attention="condition-causal", predicts=predicts), latents(4, 4, 4), noise(3, 4, 4, 4)
    how = replace(HOW, steps=steps)
    kept = sample_latents(model, given, "dose", start, how)
    again = sample_latents(model, given, "dose", start, replace(how, keep=False))
    scale = max(1.0, float(again.abs().max()))
    torch.testing.assert_close(kept / scale, again / scale, atol=1e-5, rtol=0)


def test_conditions_are_computed_once_for_all_steps_and_candidates() -> None:
    model, rows = made(attention="condition-causal"), []
    model.blocks[0].register_forward_hook(lambda module, args, out: rows.append(tuple(out.shape[:2])))
    sample_latents(model, latents(4, 4, 4), "dose", noise(3, 4, 4, 4), HOW)
    tokens = 4 * 2 * 2
    assert rows == [(1, 3 * tokens), *[(3, tokens)] * 4]


def test_batches_of_candidates_change_nothing() -> None:
    model, given, start = made(), latents(4, 4, 4), noise(5, 4, 4, 4)
    whole = sample_latents(model, given, "dose", start, HOW)
    for batch in (1, 2):
        parts = sample_latents(model, given, "dose", start, replace(HOW, batch=batch))
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["full", "condition-causal"])
def test_a_grid_within_the_window_is_not_tiled(attention: str) -> None:
    model, given, start = made(attention=attention), latents(4, 4, 4), noise(2, 4, 4, 4)
    plain = sample_latents(model, given, "dose", start, HOW)
    assert torch.equal(sample_latents(model, given, "dose", start, replace(HOW, window=(4, 8, 4))), plain)


@pytest.mark.parametrize("attention", ["full", "condition-causal"])
def test_tiles_see_their_own_part_alone_and_cover_all(attention: str) -> None:
    """Far from the border a two-tile sample of one step equals the tile sampled by itself."""
    model, given, start = made(attention=attention), latents(4, 4, 12), noise(1, 4, 4, 12)
    how = replace(HOW, steps=1, window=(4, 4, 8), overlap=2)
    out = sample_latents(model, given, "dose", start, how)
    left = sample_latents(
        model, {m: v[..., :8] for m, v in given.items()}, "dose", start[..., :8], replace(HOW, steps=1)
    )
    torch.testing.assert_close(out[..., :4], left[..., :4], atol=1e-5, rtol=0)
    assert not torch.allclose(out[..., 4:8], left[..., 4:8], atol=1e-3)
    assert out.shape == start.shape
