"""The Wan 2.1 checkpoint of this machine. An environment variable gives its path; others see only its hash.

``FEDKT3D_WAN`` names a folder with ``transformer`` and ``vae``: folders as diffusers saves them, or single safetensors
files of these names. It may also name the transformer's single file, with the autoencoder beside it. Every party sets
its own path. Model specifications and messages hold only the hash, never the path.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from shared_model.backbone import wan, wan_vae
from shared_model.backbone.checkpoint import Checkpoint, locate, open_part, tensors_hash
from shared_model.backbone.wan import WanDiT
from shared_model.backbone.wan_vae import WanLatents
from shared_model.core.errors import InputError
from shared_model.network.switches import Switches

VARIABLE = "FEDKT3D_WAN"
# Version of how the weights are used (folding, ranges, padding). It is part of the hash: raise it when that changes.
_FORM = 1

# (file, time of change in ns, size) of each file, so that a replaced checkpoint is read again.
Stamp = tuple[tuple[str, int, int], ...]


def wan_hash() -> str:
    """SHA-256 hex of this machine's transformer and autoencoder: the weights in use, sizes and latent statistics.

    Equal numbers give equal hashes, in one file or in shards, in float32 or bfloat16. For 1.3B parameters it takes
    about 10 s, once in each process.
    """
    transformer, vae = _parts()
    return hashlib.sha256(
        f"wan/{_FORM}:{_transformer_hash(transformer, _stamp(transformer))}:{_vae_hash(vae, _stamp(vae))}".encode()
    ).hexdigest()


def wan_transformer(switches: Switches) -> WanDiT:
    """A new model with the checkpoint's weights."""
    return wan.load_transformer(_open_transformer(_parts()[0]), switches)


def wan_latents(depth: int) -> WanLatents:
    """The checkpoint's autoencoder for volumes of ``depth`` slices. Each process reads it once."""
    transformer, vae = _parts()
    return _latents(vae, _stamp(vae), _channels(transformer, _stamp(transformer)), depth)


def _parts() -> tuple[Path, Path]:
    named = os.environ.get(VARIABLE, "")
    if not named:
        raise InputError(f"model.prior=wan: {VARIABLE} is not set; expected the path of Wan 2.1 in diffusers format")
    root = Path(named)
    if not root.is_absolute():
        raise InputError(f"{VARIABLE}={named}: expected an absolute path")
    return locate(root, "transformer"), locate(root, "vae")


def _stamp(path: Path) -> Stamp:
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix in (".json", ".safetensors"))
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _open_transformer(path: Path) -> Checkpoint:
    return open_part(path, wan.CLASS_NAME)


@lru_cache(maxsize=4)
def _channels(path: Path, stamp: Stamp) -> int:
    return wan.architecture(_open_transformer(path)).latent_channels


@lru_cache(maxsize=4)
def _transformer_hash(path: Path, stamp: Stamp) -> str:
    checkpoint = _open_transformer(path)
    sizes = json.dumps(asdict(wan.architecture(checkpoint)), sort_keys=True)
    return hashlib.sha256(f"{sizes}:{tensors_hash(wan.used_tensors(checkpoint))}".encode()).hexdigest()


@lru_cache(maxsize=1)
def _vae(path: Path, stamp: Stamp, channels: int) -> AutoencoderKLWan:
    return wan_vae.load_vae(open_part(path, wan_vae.CLASS_NAME), channels)


@lru_cache(maxsize=4)
def _vae_hash(path: Path, stamp: Stamp) -> str:
    checkpoint = open_part(path, wan_vae.CLASS_NAME)
    vae = wan_vae.load_vae(checkpoint, channels=checkpoint.shape("post_quant_conv.weight")[0])
    sizes = {key: vae.config[key] for key in ("latents_mean", "latents_std", "temperal_downsample")}
    sizes["ranges"] = wan_vae.RANGES
    text = json.dumps(sizes, sort_keys=True)
    return hashlib.sha256(f"{text}:{tensors_hash(checkpoint)}".encode()).hexdigest()


@lru_cache(maxsize=4)
def _latents(path: Path, stamp: Stamp, channels: int, depth: int) -> WanLatents:
    return WanLatents(_vae(path, stamp, channels), depth, _vae_hash(path, stamp))
