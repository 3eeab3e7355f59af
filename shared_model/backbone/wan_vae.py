"""Wan 2.1's video autoencoder (diffusers' AutoencoderKLWan) as latents: 16 channels, 4x fewer slices, 8x8 in plane.

Slices take the place of video frames. The autoencoder needs 4k + 1 of them: one, then groups of four. A volume of
another depth is extended with copies of its last slice, which are cut off again after decoding. All three colour
channels get the same volume, and decoding averages them. Pixels lie in [-1, 1], so every modality has a fixed range in
its natural units. Values outside are clamped: by ``encode`` on the way in, by the autoencoder on the way out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from shared_model.backbone.checkpoint import Checkpoint
from shared_model.core.errors import InputError
from shared_model.diffusion.latents import RESIDUAL
from shared_model.network.seeding import seeded

CLASS_NAME = "AutoencoderKLWan"
SLICES_PER_LATENT = 4
PIXELS_PER_LATENT = 8
COLOURS = 3
# Threads take turns, because diffusers' model keeps the frames that it has seen as attributes.
_TURN = threading.Lock()
# Least and greatest value of each modality in its natural units (Gy, HU, organ code, fraction). Public constants. Dose
# above 90 Gy is beyond 125% of the highest usual prescription. A beam plate exceeds 1 towards the source.
RANGES: Mapping[str, tuple[float, float]] = {
    "dose": (0.0, 90.0),
    "ct": (-1000.0, 2000.0),
    "ptv": (0.0, 90.0),
    "oar": (0.0, 7.0),
    "body": (0.0, 1.0),
    "beam": (0.0, 1.25),
    "angle": (0.0, 1.0),
    RESIDUAL: (-45.0, 45.0),
}
SCALE: Mapping[str, tuple[float, float]] = {m: ((a + b) / 2, (b - a) / 2) for m, (a, b) in RANGES.items()}
# Values by which Wan 2.1's autoencoder is recognised. That of Wan 2.2 compresses 16x16 and patches its input.
_FIXED: Mapping[str, Any] = {
    "in_channels": COLOURS,
    "out_channels": COLOURS,
    "is_residual": False,
    "patch_size": None,
    "scale_factor_temporal": SLICES_PER_LATENT,
    "scale_factor_spatial": PIXELS_PER_LATENT,
}


class WanLatents:
    """The frozen autoencoder with its own latent statistics. Implements shared_model.diffusion.latents.Latents.

    ``depth``: slices (z) of the volumes. ``identity``: content hash of the weights, for caches. It is slow, so
    ``costly`` is true.
    """

    scale = SCALE
    costly = True

    def __init__(self, vae: AutoencoderKLWan, depth: int, identity: str) -> None:
        self.identity = identity
        self._vae = vae
        self._depth = depth
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config["latents_mean"]).view(shape)
        self._sd = torch.tensor(vae.config["latents_std"]).view(shape)

    def cells(self, volume_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(ceil((Z - 1) / 4) + 1, Y/8, X/8)."""
        z, y, x = volume_shape
        return -(-(z - 1) // SLICES_PER_LATENT) + 1, y // PIXELS_PER_LATENT, x // PIXELS_PER_LATENT

    @torch.no_grad()
    def encode(self, volume_bzyx: Tensor) -> Tensor:
        """(B, Z, Y, X), modalities scaled by ``scale`` -> (B, 16, ceil((Z - 1) / 4) + 1, Y/8, X/8), about N(0, 1)."""
        missing = -(volume_bzyx.shape[1] - 1) % SLICES_PER_LATENT
        padded = F.pad(volume_bzyx.clamp(-1, 1)[:, None], (0, 0, 0, 0, 0, missing), mode="replicate")
        colours = padded.expand(-1, COLOURS, -1, -1, -1)
        with _TURN:
            # One volume at a time, because the autoencoder's activations are far larger than its latents.
            latents = torch.cat([self._vae.encode(one).latent_dist.mode() for one in colours.split(1)])
        return (latents - self._mean) / self._sd

    @torch.no_grad()
    def decode(self, latents_bczyx: Tensor) -> Tensor:
        """(B, 16, z, y, x) -> (B, depth, 8y, 8x) in [-1, 1], the autoencoder's approximate inverse of ``encode``."""
        latents = latents_bczyx * self._sd + self._mean
        with _TURN:
            colours = torch.cat([self._vae.decode(one).sample for one in latents.split(1)])
        return colours.mean(dim=1)[:, : self._depth]


def load_vae(checkpoint: Checkpoint, channels: int) -> AutoencoderKLWan:
    """The autoencoder, float32 and frozen, with ``channels`` latent channels. InputError names what does not fit.

    A single file has no configuration. It must then be Wan 2.1's own, whose values are diffusers' defaults.
    """
    with torch.device("meta"):
        vae = _make_empty(checkpoint)
    _check(checkpoint, vae, channels)
    source = checkpoint.select({name: tuple(p.shape) for name, p in vae.state_dict().items()})
    vae.load_state_dict({name: source[name] for name in source}, assign=True)
    vae.requires_grad_(False)
    vae.eval()
    return vae


def _make_empty(checkpoint: Checkpoint) -> AutoencoderKLWan:
    config = {} if checkpoint.config is None else checkpoint.config
    if checkpoint.config is None:
        config = {"base_dim": checkpoint.shape("encoder.conv_in.weight")[0]}
    try:
        with seeded(0):
            vae: AutoencoderKLWan = AutoencoderKLWan.from_config(dict(config))
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise InputError(f"{checkpoint.where}: config.json makes no {CLASS_NAME} ({type(error).__name__})") from error
    return vae


def _check(checkpoint: Checkpoint, vae: AutoencoderKLWan, channels: int) -> None:
    config = vae.config
    for key, value in {**_FIXED, "z_dim": channels}.items():
        if config[key] != value:
            raise InputError(
                f"{checkpoint.where}: {key} is {config[key]!r}, expected {value!r}; this is not Wan 2.1's autoencoder"
            )
    if len(config["dim_mult"]) != 4 or sum(config["temperal_downsample"]) != 2:
        raise InputError(f"{checkpoint.where}: compresses otherwise than 4x8x8; this is not Wan 2.1's autoencoder")
    for key in ("latents_mean", "latents_std"):
        if len(config[key]) != channels:
            raise InputError(f"{checkpoint.where}: {key} has {len(config[key])} numbers, expected {channels}")
    if min(config["latents_std"]) <= 0:
        raise InputError(f"{checkpoint.where}: latents_std holds a number that is not positive")
