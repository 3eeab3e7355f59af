"""Masks: the key stream of AES-256 in counter mode. It is added to a vector, or subtracted, modulo 2^16, 2^32 or 2^64.

A key is derived for one step and one use (context.py), so the counter starts at zero. Each chunk stays in a core's
second-level cache while every mask is applied to it. So the vector passes through memory once, for any number of masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

Ring = NDArray[Any]  # (d,) uint16, uint32 or uint64, little-endian

RINGS: Mapping[int, np.dtype[Any]] = {bits: np.dtype(f"<u{bits // 8}") for bits in (16, 32, 64)}
_CHUNK_BYTES = 1 << 18
_ZEROS = bytes(_CHUNK_BYTES)
_BLOCK_BYTES = 16


def is_ring_vector(vector: Ring, bits: int, length: int) -> bool:
    """Return whether the array is one flat, contiguous vector of ``length`` elements of the ring."""
    return vector.dtype == RINGS[bits] and vector.shape == (length,) and vector.flags.c_contiguous


def apply_masks(vector: Ring, masks: Sequence[tuple[bytes, int]], threads: int = 1) -> None:
    """Add (sign +1) or subtract (sign -1) the mask of each 32-byte seed, in place, modulo the ring.

    With several threads, each works on its own part of the vector. Encryption and addition run outside Python's lock.
    """
    if not masks:
        return
    stretch = -(-vector.nbytes // (threads * _CHUNK_BYTES)) * _CHUNK_BYTES
    starts = range(0, vector.nbytes, stretch)
    if len(starts) == 1:
        _apply(vector, masks, 0)
        return
    with ThreadPoolExecutor(len(starts)) as pool:
        width = vector.itemsize
        parts = [(vector[start // width : (start + stretch) // width], start // _BLOCK_BYTES) for start in starts]
        for done in [pool.submit(_apply, part, masks, block) for part, block in parts]:
            done.result()


def _apply(vector: Ring, masks: Sequence[tuple[bytes, int]], first_block: int) -> None:
    """Apply the part of the masks that begins at AES block ``first_block``."""
    counter = modes.CTR(first_block.to_bytes(_BLOCK_BYTES, "big"))
    streams: list[tuple[CipherContext, Any]] = [
        (Cipher(algorithms.AES256(seed), counter).encryptor(), np.add if sign > 0 else np.subtract)
        for seed, sign in masks
    ]
    zeros = memoryview(_ZEROS)
    buffer = bytearray(_CHUNK_BYTES)
    stream = np.frombuffer(buffer, dtype=vector.dtype)
    per_chunk = _CHUNK_BYTES // vector.itemsize
    for start in range(0, vector.size, per_chunk):
        chunk = vector[start : start + per_chunk]
        mask, count = stream[: chunk.size], chunk.nbytes
        target = memoryview(buffer)[:count]
        for encryptor, fold in streams:
            encryptor.update_into(zeros[:count], target)
            fold(chunk, mask, out=chunk)


def masked_hash(vector: Ring) -> bytes:
    """Return the SHA-256 of a masked vector (d,): its sender signs it, so that nobody can change it unseen."""
    found = hashlib.sha256(b"fedkt3d:secagg/masked:v1\n" + vector.itemsize.to_bytes(1, "big"))
    found.update(vector.data.cast("B"))
    return found.digest()
