"""The interface of latents, and Haar latents: an exact, untrained stand-in for a video VAE, 2x4x4 to 32 channels.

Splitting every band of a Haar wavelet again (the wavelet packet) is, on blocks of 2^k voxels, the Walsh-Hadamard
transform. It is orthonormal. So the mean squared error of latents is that of voxels, and decoding restores the volume
to float precision. All 32 bands are kept: on head-and-neck dose at 64^3, keeping only the best 8 costs 1.6 Gy of dose
score, and the best 24 costs 0.5 Gy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

# Key of ``Latents.scale`` for dose minus base, which stands in for dose in the residual form.
RESIDUAL = "residual"


class Latents(Protocol):
    """Turns volumes of the training grid into latents and back."""

    @property
    def scale(self) -> Mapping[str, tuple[float, float]]:
        """Modality -> (offset, unit). What is encoded is (volume in natural units - offset) / unit."""
        ...

    @property
    def identity(self) -> str:
        """A name for caches. Two objects have the same name if they make the same latents from the same volumes."""
        ...

    @property
    def costly(self) -> bool:
        """Whether latents are worth keeping on disk."""
        ...

    def cells(self, volume_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Latent grid (z, y, x) of a volume grid (Z, Y, X)."""
        ...

    def encode(self, volume_bzyx: Tensor) -> Tensor:
        """(B, Z, Y, X) -> (B, C, z, y, x)."""
        ...

    def decode(self, latents_bczyx: Tensor) -> Tensor:
        """(B, C, z, y, x) -> (B, Z, Y, X)."""
        ...


BLOCK: tuple[int, int, int] = (2, 4, 4)
CHANNELS: int = BLOCK[0] * BLOCK[1] * BLOCK[2]


def _hadamard(order: int) -> Tensor:
    """Orthonormal Hadamard matrix (order, order), sum band first. ``order`` is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    while matrix.shape[0] < order:
        matrix = torch.kron(matrix, step)
    return matrix


_PACKET = torch.kron(torch.kron(_hadamard(BLOCK[0]), _hadamard(BLOCK[1])), _hadamard(BLOCK[2])).float()


def latent_shape(volume_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Latent grid of a volume grid. ValueError unless each axis is a multiple of BLOCK."""
    if any(n % b for n, b in zip(volume_shape, BLOCK, strict=True)):
        raise ValueError(f"volume shape {volume_shape} is not a multiple of the latent block {BLOCK}")
    z, y, x = (n // b for n, b in zip(volume_shape, BLOCK, strict=True))
    return z, y, x


def encode(volume_bzyx: Tensor) -> Tensor:
    """(B, Z, Y, X) -> (B, CHANNELS, Z/2, Y/4, X/4)."""
    z, y, x = latent_shape((volume_bzyx.shape[1], volume_bzyx.shape[2], volume_bzyx.shape[3]))
    blocks = volume_bzyx.reshape(-1, z, BLOCK[0], y, BLOCK[1], x, BLOCK[2]).permute(0, 2, 4, 6, 1, 3, 5)
    return torch.einsum("ck,bkzyx->bczyx", _PACKET.to(volume_bzyx.dtype), blocks.reshape(-1, CHANNELS, z, y, x))


def decode(latents_bczyx: Tensor) -> Tensor:
    """(B, CHANNELS, z, y, x) -> (B, 2z, 4y, 4x). The inverse of ``encode``."""
    b, _, z, y, x = latents_bczyx.shape
    blocks = torch.einsum("ck,bczyx->bkzyx", _PACKET.to(latents_bczyx.dtype), latents_bczyx)
    blocks = blocks.reshape(b, *BLOCK, z, y, x).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(b, z * BLOCK[0], y * BLOCK[1], x * BLOCK[2])


@dataclass(frozen=True, kw_only=True)
class Haar:
    """Haar latents as ``Latents``. They are exact at any size and as fast as reading from disk."""

    scale: Mapping[str, tuple[float, float]]
    identity: ClassVar[str] = "haar-2x4x4"
    costly: ClassVar[bool] = False

    def cells(self, volume_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(Z/2, Y/4, X/4)."""
        return latent_shape(volume_shape)

    def encode(self, volume_bzyx: Tensor) -> Tensor:
        """(B, Z, Y, X) -> (B, CHANNELS, Z/2, Y/4, X/4)."""
        return encode(volume_bzyx)

    def decode(self, latents_bczyx: Tensor) -> Tensor:
        """(B, CHANNELS, z, y, x) -> (B, 2z, 4y, 4x)."""
        return decode(latents_bczyx)
