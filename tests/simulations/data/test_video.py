"""Procedural video: seeded, bounded, moving; the control keeps every frame and loses the motion."""

import numpy as np
import pytest
import torch

from shared_model.diffusion.modalities import HAAR
from shared_model.patient.case import MODALITIES
from simulations.data.video import PASSES, clip_examples, render_clip

SHAPE = (16, 32, 32)


def clip(index: int) -> dict[str, torch.Tensor]:
    return render_clip(np.random.default_rng([9, index]), SHAPE).passes


def test_a_clip_has_all_passes_and_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = clip(0), clip(0), clip(1)
    assert set(first) == set(PASSES) == set(MODALITIES)
    for name, volume in first.items():
        assert volume.shape == SHAPE
        assert volume.dtype == torch.float32
        assert torch.isfinite(volume).all()
        assert torch.equal(volume, again[name])
    assert not torch.equal(first["ct"], other["ct"])


@pytest.mark.parametrize("index", range(5))
def test_passes_mean_what_they_say(index: int) -> None:
    passes = clip(index)
    body, glow, light, labels = (passes[m] for m in ("body", "ptv", "dose", "oar"))
    for mask in (body, glow):
        assert mask.min() >= 0
        assert mask.max() <= 1
    # Light stays in the large shape and in frames where something glows; what glows has no label.
    assert light[body < 1e-3].abs().max() < 0.05
    dark = glow.amax((1, 2)) < 1e-3
    assert light[dark].abs().max() < 1e-2 if dark.any() else True
    assert labels[glow >= 0.3].max() == 0 if (glow >= 0.3).any() else True
    assert set(labels.unique().tolist()) <= set(range(12))


def test_where_it_glows_brightest_the_light_is_about_one() -> None:
    means = [p["dose"][p["ptv"] > 0.9].mean() for p in map(clip, range(8)) if (p["ptv"] > 0.9).sum() > 20]
    assert means
    assert np.mean(means) == pytest.approx(1.0, abs=0.1)


def test_the_control_shuffles_frames_alike_in_all_passes_and_changes_none() -> None:
    plain, _ = clip_examples(3, 5, SHAPE, shuffled=False)
    mixed, _ = clip_examples(3, 5, SHAPE, shuffled=True)
    moves, orders = {}, []
    for name in MODALITIES:
        a, b = (HAAR.decode(e.latents[name].float()[None])[0] for e in (plain, mixed))
        distance = torch.cdist(b.flatten(1), a.flatten(1))
        orders.append(distance.argmin(1))
        assert distance.min(1).values.max() < 0.05 * a.norm()
        moves[name] = (a.diff(dim=0).abs().mean(), b.diff(dim=0).abs().mean())
    # By the shading, which never repeats a frame: a permutation.
    assert sorted(orders[1].tolist()) == list(range(SHAPE[0]))
    assert orders[1].tolist() != sorted(orders[1].tolist())
    assert all(mixed_step > plain_step for plain_step, mixed_step in moves.values())


def test_the_mirror_image_is_the_clip_from_the_other_side() -> None:
    plain, mirrored = clip_examples(2, 0, SHAPE, shuffled=False)
    for name in MODALITIES:
        a, b = (HAAR.decode(e.latents[name].float()[None])[0] for e in (plain, mirrored))
        torch.testing.assert_close(a.flip(2), b, atol=0.1, rtol=0.02)


def test_passes_are_scaled_to_about_unit_variance() -> None:
    volumes = {name: torch.stack([clip(i)[name] for i in range(30)]) for name in PASSES}
    for name, (offset, unit) in PASSES.items():
        scaled = (volumes[name] - offset) / unit
        assert abs(scaled.mean()) < 0.5, name
        assert 0.5 < scaled.std() < 2, name
