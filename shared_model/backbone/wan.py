"""Wan 2.1's video transformer as a backbone of Any2AnyDiT (diffusers' WanTransformer3DModel, text to video).

Weights with the same names are copied bit for bit. Every modality gets a copy of the patch embedding and the head. The
role embedding starts at zero. Text is removed: with an empty prompt (all-zero text states) every text token has the
same key and the same value. So attention to text adds one constant in each block, W_o (W_v e + b_v) + b_o, where e is
the embedder's output for zeros. ``blocks.N.null`` holds this constant, which saves a fifth of the weights. Leaving it
out would be an error of about 20%.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_model.backbone.checkpoint import Checkpoint
from shared_model.core.errors import InputError
from shared_model.network.attention import Memory
from shared_model.network.device import full_precision
from shared_model.network.dit import EPS, TARGET, Any2AnyDiT
from shared_model.network.schedule import flow_state, velocity_of_flow
from shared_model.network.spec import Architecture
from shared_model.network.switches import Switches

CLASS_NAME = "WanTransformer3DModel"
# The published 1.3B model (text to video); 1.1B parameters remain without text.
WAN_1_3B = Architecture(
    dim=1536,
    heads=12,
    ffn_dim=8960,
    layers=30,
    freq_dim=256,
    latent_channels=16,
    patch=(1, 2, 2),
    text_constant=True,
)
_HEAD_DIM = 128  # of every published Wan 2.1
_TEXT = "condition_embedder.text_embedder"
# Values that are fixed in this backbone, as diffusers writes them into config.json. They are also diffusers' defaults.
_FIXED: Mapping[str, Any] = {
    "qk_norm": "rms_norm_across_heads",
    "eps": EPS,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}


class WanDiT(Any2AnyDiT):
    """Any2AnyDiT around a flow-matching backbone. To its caller it predicts v like any other network.

    Inside, in training and in sampling, the network gets the rectified-flow state, and its output is read as flow
    velocity (shared_model/network/schedule.py). Under bf16 the residual stream, norms, modulation and time embedding
    stay float32, as in diffusers.
    """

    def forward(
        self,
        conditions: Mapping[str, Tensor],
        target: str,
        noisy_bczyx: Tensor,
        t_b: Tensor,
        memory: Memory | None = None,
        estimate_bczyx: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, C, z, y, x) of ``target`` at noise time ``t_b`` in [0, 1]. It is float32 also under bf16.

        ``conditions`` are clean and need no conversion: at t = 0 both states are the same.
        """
        flow = super().forward(conditions, target, flow_state(noisy_bczyx, t_b), t_b, memory, estimate_bczyx)
        return velocity_of_flow(noisy_bczyx, flow.to(noisy_bczyx.dtype), t_b)

    def _tokens(self, names: list[str], volumes: Mapping[str, Tensor], estimate_bczyx: Tensor | None = None) -> Tensor:
        return super()._tokens(names, volumes, estimate_bczyx).to(self.table_out.weight.dtype)

    def _time(self, t_b: Tensor, clean: int, last: int = TARGET) -> Tensor:
        with full_precision(t_b.device):
            return super()._time(t_b, clean, last)


def load_transformer(checkpoint: Checkpoint, switches: Switches | None = None) -> WanDiT:
    """A new WanDiT with the weights of ``checkpoint``, float32. InputError names what is missing or mis-shaped.

    All names and shapes are checked before the first tensor is read.
    """
    arch = architecture(checkpoint)
    source = used_tensors(checkpoint)
    with torch.device("meta"):
        model = WanDiT(arch, switches)
    state: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        origin = wan_name(name)
        if origin is not None:
            state[name] = source[origin].reshape(parameter.shape).clone()
    if model.role is not None:
        state["role.weight"] = torch.zeros(model.role.weight.shape)
    state |= {f"blocks.{i}.null.weight": constant for i, constant in enumerate(_text_constants(source, arch.layers))}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def architecture(checkpoint: Checkpoint) -> Architecture:
    """Sizes of the model, from ``config.json``, or from the shapes in a single file, whose heads must be 128 wide."""
    dim, channels, *patch = _shape(checkpoint, "patch_embedding.weight", 5)
    head_dim, heads = _HEAD_DIM, dim // _HEAD_DIM
    if checkpoint.config is not None:
        head_dim, heads = checkpoint.whole("attention_head_dim"), checkpoint.whole("num_attention_heads")
        _check_config(checkpoint.where, checkpoint.config)
    if heads * head_dim != dim or heads < 1 or head_dim % 2:
        raise InputError(f"{checkpoint.where}: width {dim} is not {heads} heads of {head_dim}")
    layers = {int(found[1]) for name in checkpoint if (found := re.match(r"blocks\.(\d+)\.", name))}
    return Architecture(
        dim=dim,
        heads=heads,
        ffn_dim=_shape(checkpoint, "blocks.0.ffn.net.0.proj.weight", 2)[0],
        layers=max(layers, default=0) + 1 if checkpoint.config is None else checkpoint.whole("num_layers"),
        freq_dim=_shape(checkpoint, "condition_embedder.time_embedder.linear_1.weight", 2)[1],
        latent_channels=channels,
        patch=(patch[0], patch[1], patch[2]),
        text_constant=True,
    )


def _shape(checkpoint: Checkpoint, name: str, axes: int) -> tuple[int, ...]:
    shape = checkpoint.shape(name)
    if len(shape) != axes:
        raise InputError(f"{checkpoint.where}: tensor {name} has shape {shape}, expected {axes} axes")
    return shape


def _check_config(where: str, config: Mapping[str, Any]) -> None:
    for key, value in _FIXED.items():
        found = config.get(key, value)
        if found != value:
            raise InputError(f"{where}: {key} is {found!r}, expected {value!r}; only Wan 2.1 text to video is known")


def wan_name(name: str) -> str | None:
    """The name in Wan of the tensor that a WanDiT parameter is copied from. None if Wan has no such tensor."""
    head, _, rest = name.partition(".")
    if head in ("patch", "head"):
        leaf = rest.partition(".")[2]
        return f"{'patch_embedding' if head == 'patch' else 'proj_out'}.{leaf}"
    if head in ("time_embedder", "time_proj"):
        return f"condition_embedder.{name}"
    if head == "table_out":
        return "scale_shift_table"
    if head == "role" or ".null." in name:
        return None
    return name.replace(".table.weight", ".scale_shift_table")


def used_tensors(checkpoint: Checkpoint) -> Checkpoint:
    """The tensors that a prior is made of. InputError if one is missing or has the wrong shape."""
    arch = architecture(checkpoint)
    with torch.device("meta"):
        state = WanDiT(arch).state_dict()
    expected: dict[str, tuple[int, ...]] = {}
    for name, parameter in state.items():
        origin = wan_name(name)
        if origin is not None:
            # Our tables have two leading axes (batch, slot) of length one. Wan's have one.
            shape = tuple(parameter.shape)
            expected[origin] = shape[1:] if origin.endswith("scale_shift_table") else shape
    text_dim = _shape(checkpoint, f"{_TEXT}.linear_1.weight", 2)[1]
    for layer, width in (("linear_1", text_dim), ("linear_2", arch.dim)):
        expected |= {f"{_TEXT}.{layer}.weight": (arch.dim, width), f"{_TEXT}.{layer}.bias": (arch.dim,)}
    for i in range(arch.layers):
        for part in ("to_v", "to_out.0"):
            name = f"blocks.{i}.attn2.{part}"
            expected |= {f"{name}.weight": (arch.dim, arch.dim), f"{name}.bias": (arch.dim,)}
    return checkpoint.select(expected, unused=set(_unused_names(arch.layers)))


def _unused_names(layers: int) -> Iterator[str]:
    """Names of tensors that only decide which text token to attend to. Here all tokens are equal, so no need."""
    for i in range(layers):
        for part in ("attn2.to_q", "attn2.to_k", "norm2"):
            yield from (f"blocks.{i}.{part}.weight", f"blocks.{i}.{part}.bias")
        yield from (f"blocks.{i}.attn2.norm_q.weight", f"blocks.{i}.attn2.norm_k.weight")


def _text_constants(source: Mapping[str, Tensor], layers: int) -> Iterator[Tensor]:
    """The output (1, 1, D) of each block's attention for all-zero text, computed in float64."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, source[f"{name}.weight"].double(), source[f"{name}.bias"].double())

    # For a text of zeros the embedder's first layer gives only its bias.
    hidden = F.gelu(source[f"{_TEXT}.linear_1.bias"].double(), approximate="tanh")
    text = linear(f"{_TEXT}.linear_2", hidden)
    for i in range(layers):
        constant = linear(f"blocks.{i}.attn2.to_out.0", linear(f"blocks.{i}.attn2.to_v", text))
        yield constant.float()[None, None]
