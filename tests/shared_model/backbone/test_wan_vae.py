"""The autoencoder's way through our code against diffusers' own, with a tiny one that diffusers saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from shared_model.backbone.checkpoint import WEIGHTS, locate, open_part
from shared_model.backbone.wan_vae import CLASS_NAME, RANGES, SCALE, WanLatents, load_vae
from shared_model.core.errors import InputError
from shared_model.diffusion.latents import RESIDUAL
from shared_model.patient.case import MODALITIES
from tests.builders.wan_files import tiny_vae


def opened(root: Path) -> AutoencoderKLWan:
    return load_vae(open_part(locate(root, "vae"), CLASS_NAME), 16)


@pytest.fixture(scope="module")
def theirs(wan_checkpoint: Path) -> AutoencoderKLWan:
    vae: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(wan_checkpoint / "vae")
    return vae.eval()


@pytest.fixture(scope="module")
def vae(wan_checkpoint: Path) -> AutoencoderKLWan:
    return opened(wan_checkpoint)


def volume(depth: int) -> torch.Tensor:
    return torch.rand(2, depth, 16, 32, generator=torch.Generator().manual_seed(depth)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("depth", [5, 9])
def test_encode_and_decode_are_diffusers_own(vae: AutoencoderKLWan, theirs: AutoencoderKLWan, depth: int) -> None:
    ours, x = WanLatents(vae, depth, "tiny"), volume(depth)
    mean = torch.tensor(theirs.config.latents_mean).view(1, 16, 1, 1, 1)
    sd = torch.tensor(theirs.config.latents_std).view(1, 16, 1, 1, 1)
    colours = torch.stack([x, x, x], dim=1)
    expected = torch.cat([(theirs.encode(one).latent_dist.mean - mean) / sd for one in colours.split(1)])
    latents = ours.encode(x)
    assert latents.shape == (2, 16, (depth - 1) // 4 + 1, 2, 4)
    assert torch.equal(latents, expected)
    decoded = torch.cat([theirs.decode(one * sd + mean).sample for one in latents.split(1)])
    assert decoded.shape == (2, 3, depth, 16, 32)
    assert torch.equal(ours.decode(latents), decoded.mean(dim=1))


@pytest.mark.parametrize(("depth", "padded"), [(6, 9), (7, 9), (8, 9), (12, 13)])
def test_other_depths_are_continued_by_the_last_slice_and_cut(vae: AutoencoderKLWan, depth: int, padded: int) -> None:
    x = volume(depth)
    longer = torch.cat([x, x[:, -1:].expand(-1, padded - depth, -1, -1)], dim=1)
    latents = WanLatents(vae, depth, "tiny").encode(x)
    assert torch.equal(latents, WanLatents(vae, padded, "tiny").encode(longer))
    back = WanLatents(vae, depth, "tiny").decode(latents)
    assert torch.equal(back, WanLatents(vae, padded, "tiny").decode(latents)[:, :depth])


def test_values_outside_a_range_are_clamped(vae: AutoencoderKLWan) -> None:
    latents, x = WanLatents(vae, 5, "tiny"), 3 * volume(5)
    assert torch.equal(latents.encode(x), latents.encode(x.clamp(-1, 1)))


def test_every_modality_has_a_range_that_fills_the_pixels() -> None:
    assert set(RANGES) == {*MODALITIES, RESIDUAL}
    for modality, (low, high) in RANGES.items():
        offset, unit = SCALE[modality]
        assert ((low - offset) / unit, (high - offset) / unit) == (-1, 1)


def test_it_is_frozen(vae: AutoencoderKLWan) -> None:
    assert not vae.training
    assert not any(p.requires_grad for p in vae.parameters())
    x = volume(5).requires_grad_()
    assert not WanLatents(vae, 5, "tiny").encode(x).requires_grad


def test_shards_and_a_single_file_load_the_same(tmp_path: Path) -> None:
    """A single file has no configuration: it is taken for Wan 2.1's own, of any width."""
    small = tiny_vae(base_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=2)
    small.save_pretrained(tmp_path / "whole" / "vae")
    small.save_pretrained(tmp_path / "shards" / "vae", max_shard_size="200KB")
    assert len(list((tmp_path / "shards" / "vae").glob("*.safetensors"))) > 1
    shutil.copy(tmp_path / "whole" / "vae" / WEIGHTS, tmp_path / "vae.safetensors")
    states = [opened(root).state_dict() for root in (tmp_path / "whole", tmp_path / "shards", tmp_path)]
    for state in states[1:]:
        assert all(torch.equal(state[name], tensor) for name, tensor in states[0].items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "AutoencoderKL"}, "class 'AutoencoderKL', expected AutoencoderKLWan"),
        ({"latents_std": [1.0]}, "latents_std has 1 numbers, expected 16"),
        ({"latents_std": [0.0] * 16}, "not positive"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial is 16, expected 8"),
        ({"temperal_downsample": [False, False, True]}, "compresses otherwise than 4x8x8"),
        ({"base_dim": 8}, r"tensor .* has shape .*, expected"),
        ({"dim_mult": 3}, "makes no AutoencoderKLWan"),
    ],
)
def test_another_configuration_is_refused(
    wan_checkpoint: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    shutil.copytree(wan_checkpoint, tmp_path / "bad")
    path = tmp_path / "bad" / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=words):
        opened(tmp_path / "bad")


def test_a_missing_or_mis_shaped_tensor_is_named(wan_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(wan_checkpoint, tmp_path / "bad")
    path = tmp_path / "bad" / "vae" / WEIGHTS
    content = load_file(path)
    save_file({**content, "quant_conv.bias": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"tensor quant_conv\.bias has shape \(3,\), expected \(32,\)"):
        opened(tmp_path / "bad")
    save_file({name: tensor for name, tensor in content.items() if name != "decoder.conv_in.weight"}, path)
    with pytest.raises(InputError, match=r"tensor decoder\.conv_in\.weight is missing"):
        opened(tmp_path / "bad")
