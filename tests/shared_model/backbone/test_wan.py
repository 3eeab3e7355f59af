"""Against diffusers' own model, on a tiny checkpoint that diffusers itself saved."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from shared_model.adapter.shared import adapted_model, trainable
from shared_model.backbone.checkpoint import WEIGHTS, locate, open_part
from shared_model.backbone.wan import CLASS_NAME, WAN_1_3B, WanDiT, load_transformer, wan_name
from shared_model.core.errors import InputError
from shared_model.network.attention import attend_all
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.schedule import add_noise, flow_state
from shared_model.network.spec import ModelSpec
from shared_model.network.tokens import rope_phases
from shared_model.patient.case import MODALITIES
from tests.builders.wan_files import HEAD_DIM, HEADS, LAYERS, tiny_transformer

TEXT = torch.zeros(2, 7, 24)


def opened(root: Path) -> WanDiT:
    return load_transformer(open_part(locate(root, "transformer"), CLASS_NAME)).eval()


@pytest.fixture(scope="module")
def ours(wan_checkpoint: Path) -> WanDiT:
    return opened(wan_checkpoint)


@pytest.fixture(scope="module")
def theirs(wan_checkpoint: Path) -> WanTransformer3DModel:
    model: WanTransformer3DModel = WanTransformer3DModel.from_pretrained(wan_checkpoint / "transformer")
    return model.eval()


def latents() -> torch.Tensor:
    return torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(1))


def test_every_mapped_tensor_is_bit_identical(ours: WanDiT, theirs: WanTransformer3DModel) -> None:
    source, mapped = theirs.state_dict(), 0
    for name, tensor in ours.state_dict().items():
        origin = wan_name(name)
        if origin is None:
            continue
        assert torch.equal(tensor, source[origin].reshape(tensor.shape)), name
        mapped += 1
    # patch and head (weight, bias) of 7 modalities, time embedder and projection 6, table_out 1; a block: attn1 10,
    # ffn 4, table 1.
    assert mapped == 4 * len(MODALITIES) + 6 + 1 + 15 * LAYERS
    assert ours.role.weight.abs().max() == 0
    taken = {wan_name(name) for name in ours.state_dict()}
    left = {name for name in source if name not in taken}
    assert all(".attn2." in name or ".norm2." in name or "text_embedder" in name for name in left), left


@torch.no_grad()
def test_block_with_folded_text_equals_the_original_with_zero_text(ours: WanDiT, theirs: WanTransformer3DModel) -> None:
    width, grid = HEADS * HEAD_DIM, (3, 2, 3)
    x, modulation = torch.randn(2, 18, width), torch.randn(2, 6, width)
    text = theirs.condition_embedder.text_embedder(TEXT)
    phases = rope_phases([0], grid, HEAD_DIM)
    rotary = theirs.rope(latents())
    for mine, original in zip(ours.blocks, theirs.blocks, strict=True):
        given = (x, modulation[:, None], phases.cos().float()[:, None], phases.sin().float()[:, None], 18, attend_all)
        expected = original(x, text, modulation, rotary)
        torch.testing.assert_close(mine(*given), expected, atol=1e-5, rtol=0)
        deleted = deepcopy(mine)
        deleted.null.weight.zero_()
        assert (deleted(*given) - expected).norm() > 0.02 * (expected - x).norm()


@torch.no_grad()
def test_text_attention_is_its_constant(ours: WanDiT, theirs: WanTransformer3DModel) -> None:
    """Whatever asks, attention to all-zero text of any length answers with ``null``."""
    text = theirs.condition_embedder.text_embedder(TEXT)
    for mine, original in zip(ours.blocks, theirs.blocks, strict=True):
        answer = original.attn2(torch.randn(2, 5, HEADS * HEAD_DIM), text)
        torch.testing.assert_close(answer, mine.null.weight.expand_as(answer), atol=1e-5, rtol=0)
        assert mine.null.weight.abs().max() > 0.05


@pytest.mark.parametrize("modality", ["dose", "ct", "angle"])
@torch.no_grad()
def test_one_slot_alone_is_the_original_model(ours: WanDiT, theirs: WanTransformer3DModel, modality: str) -> None:
    """Flow velocity of the same state at the same time; a slot of its own turns all phases alike."""
    x, t = latents(), torch.tensor([0.3, 0.812])
    expected = theirs(x, 1000 * t, TEXT).sample
    got = Any2AnyDiT.forward(ours, {}, modality, x, t)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert (got - Any2AnyDiT.forward(ours, {}, modality, x, t * 0.9)).abs().max() > 1e-2


@torch.no_grad()
def test_velocity_is_that_of_the_original_flow(ours: WanDiT, theirs: WanTransformer3DModel) -> None:
    """From the variance-preserving state to v: x_0 and eps are those of the original at the same point."""
    x0, eps, t = latents(), torch.randn(2, 16, 3, 4, 6), torch.tensor([0.3, 0.812])
    x_t, _ = add_noise(x0, eps, t)
    t_view = t.view(-1, 1, 1, 1, 1)
    flow = theirs((1 - t_view) * x0 + t_view * eps, 1000 * t, TEXT).sample
    x_rf = (1 - t_view) * x0 + t_view * eps
    norm = ((1 - t_view) ** 2 + t_view**2).sqrt()
    alpha, sigma = (1 - t_view) / norm, t_view / norm
    clean, noise = x_rf - t_view * flow, x_rf + (1 - t_view) * flow
    torch.testing.assert_close(ours({}, "dose", x_t, t), alpha * noise - sigma * clean, atol=1e-4, rtol=0)
    torch.testing.assert_close(flow_state(x_t, t), x_rf)


def test_the_wrapped_model_learns_the_velocity(wan: Path) -> None:
    """A few steps of LoRA with embeddings lower the v loss, and every trainable parameter gets a gradient."""
    model = adapted_model(ModelSpec(prior="wan", adapter="lora+embeddings", rank=4, shape=(9, 32, 48)))
    assert isinstance(model.network, WanDiT)
    generator = torch.Generator().manual_seed(0)
    x0, ct, eps = (torch.randn(2, 16, 3, 4, 6, generator=generator) for _ in range(3))
    t = torch.tensor([0.4, 0.8])
    x_t, v = add_noise(x0, eps, t)
    optimiser = torch.optim.AdamW(trainable(model).values(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = (model.network({"ct": ct}, "dose", x_t, t) - v).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    reached = {name for name, p in trainable(model).items() if p.grad is not None}
    idle = {name for name in trainable(model) if name not in reached}
    assert all(name.split(".")[1] not in ("ct", "dose") for name in idle if name.startswith("patch."))
    assert all(name.startswith(("patch.", "head.")) for name in idle), idle


@torch.no_grad()
def test_norms_and_residuals_stay_float32_under_bf16(ours: WanDiT) -> None:
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> object:
        return lambda module, inputs, output: seen.update({name: output.dtype})

    watched = ("blocks.0.norm1", "blocks.1.norm3", "blocks.0.attn1.norm_q", "norm_out", "blocks.1", "time_embedder")
    hooks = [ours.get_submodule(name).register_forward_hook(watch(name)) for name in watched]  # type: ignore[arg-type]
    x, t = latents(), torch.tensor([0.3, 0.812])
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours({"ct": x.flip(0)}, "dose", x, t)
    for hook in hooks:
        hook.remove()
    assert seen == dict.fromkeys(watched, torch.float32)
    assert rough.dtype == torch.float32
    exact = ours({"ct": x.flip(0)}, "dose", x, t)
    assert (rough - exact).norm() < 0.02 * exact.norm()


def test_shards_halves_and_a_single_file_load_the_same(tmp_path: Path) -> None:
    """A single file brings no configuration: its heads are 128 wide, as in every published Wan 2.1."""
    model = tiny_transformer(num_attention_heads=1, attention_head_dim=128)
    model.save_pretrained(tmp_path / "whole" / "transformer")
    model.save_pretrained(tmp_path / "shards" / "transformer", max_shard_size="200KB")
    assert len(list((tmp_path / "shards" / "transformer").glob("*.safetensors"))) > 2
    shutil.copy(tmp_path / "whole" / "transformer" / WEIGHTS, tmp_path / "wan21.safetensors")
    whole = opened(tmp_path / "whole").state_dict()
    for root in (tmp_path / "shards", tmp_path / "wan21.safetensors"):
        other = opened(root).state_dict()
        assert list(other) == list(whole)
        assert all(torch.equal(other[name], whole[name]) for name in whole)
    half = tmp_path / "half.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(tmp_path / "wan21.safetensors").items()}, half)
    loaded = opened(half).state_dict()["blocks.1.ffn.net.2.weight"]
    assert torch.equal(loaded, whole["blocks.1.ffn.net.2.weight"].bfloat16().float())


def damaged(checkpoint: Path, folder: Path, drop: str = "", **tensors: torch.Tensor) -> Path:
    """A copy of the checkpoint without the tensor ``drop`` and with ``tensors`` in place of its own."""
    shutil.copytree(checkpoint, folder)
    path = folder / "transformer" / WEIGHTS
    content = {name: tensor for name, tensor in load_file(path).items() if name != drop}
    save_file({**content, **tensors}, path)
    return folder


@pytest.mark.parametrize(
    "name",
    ["blocks.1.attn1.norm_k.weight", "scale_shift_table", "blocks.0.attn2.to_v.bias", "patch_embedding.weight"],
)
def test_a_missing_tensor_is_named(wan_checkpoint: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"tensor {name} is missing"):
        opened(damaged(wan_checkpoint, tmp_path / "bad", drop=name))


@pytest.mark.parametrize("name", ["proj_out.weight", "blocks.1.scale_shift_table", "blocks.0.attn2.to_out.0.weight"])
def test_a_wrong_shape_is_named(wan_checkpoint: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"tensor {name} has shape \(3, 5\), expected \("):
        opened(damaged(wan_checkpoint, tmp_path / "bad", **{name: torch.zeros(3, 5)}))


def test_unknown_tensors_and_bad_numbers_are_named(wan_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tensor blocks\.2\.norm2\.bias is unknown"):
        opened(damaged(wan_checkpoint, tmp_path / "a", **{"blocks.2.norm2.bias": torch.zeros(96)}))
    with pytest.raises(InputError, match=r"proj_out\.bias holds values that are not finite"):
        opened(damaged(wan_checkpoint, tmp_path / "b", **{"proj_out.bias": torch.full((64,), torch.nan)}))
    with pytest.raises(InputError, match=r"proj_out\.bias is stored as F8_E4M3"):
        opened(damaged(wan_checkpoint, tmp_path / "c", **{"proj_out.bias": torch.zeros(64).to(torch.float8_e4m3fn)}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "class 'FluxTransformer2DModel', expected WanTransformer3DModel"),
        ({"image_dim": 1280}, "image_dim is 1280, expected None"),
        ({"num_attention_heads": 5}, "width 96 is not 5 heads of 32"),
        ({"num_layers": 3}, r"tensor blocks\.2\..* is missing"),
        ({"num_layers": "3"}, "num_layers is '3', expected a positive whole number"),
        ({"eps": 1e-5}, "eps is 1e-05"),
    ],
)
def test_another_configuration_is_refused(
    wan_checkpoint: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    shutil.copytree(wan_checkpoint, tmp_path / "bad")
    path = tmp_path / "bad" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=words):
        opened(tmp_path / "bad")


def test_missing_files_are_named(wan_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder or file"):
        opened(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no transformer/"):
        opened(tmp_path)
    folder = tmp_path / "transformer"
    folder.mkdir()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        opened(tmp_path)
    shutil.copy(wan_checkpoint / "transformer" / "config.json", folder)
    with pytest.raises(InputError, match=f"no {WEIGHTS}"):
        opened(tmp_path)
    (folder / WEIGHTS).write_bytes(b"no weights at all")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        opened(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tiny_transformer().save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    shard = min((tmp_path / "transformer").glob("*-00002-*.safetensors"))
    content = load_file(shard)
    lost = sorted(content)[0]
    save_file({name: tensor for name, tensor in content.items() if name != lost}, shard)
    with pytest.raises(InputError, match=f"tensor {lost} is missing"):
        opened(tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: cannot be read"):
        opened(tmp_path)


def test_the_published_model_has_its_published_size() -> None:
    with torch.device("meta"):
        model = WanDiT(WAN_1_3B)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.128e9, rel=2e-3)
