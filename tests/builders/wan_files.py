"""A tiny Wan checkpoint, written by diffusers itself with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

HEADS, HEAD_DIM, LAYERS = 3, 32, 2


def tiny_transformer(seed: int = 0, **changes: object) -> WanTransformer3DModel:
    """Random weights everywhere: also where diffusers starts at zero or one (biases, norms)."""
    config = {
        "patch_size": (1, 2, 2), "num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM, "in_channels": 16,
        "out_channels": 16, "text_dim": 24, "freq_dim": 64, "ffn_dim": 160, "num_layers": LAYERS,
        "rope_max_seq_len": 64,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = WanTransformer3DModel(**{**config, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny_vae(seed: int = 0, **changes: object) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    config = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, **changes}
    return AutoencoderKLWan(**config).eval()


def write_checkpoint(folder: Path, shards: str = "10GB") -> Path:
    """``folder`` with transformer and autoencoder; ``shards`` is the greatest size of one file."""
    tiny_transformer().save_pretrained(folder / "transformer", max_shard_size=shards)
    tiny_vae().save_pretrained(folder / "vae", max_shard_size=shards)
    return folder
