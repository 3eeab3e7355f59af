"""Shamir's secret sharing of 32-byte secrets over the field of 2^521 - 1 elements (Shamir 1979, CACM 22(11)).

``threshold`` shares restore the secret; fewer shares are independent of it. The field is much larger than a 256-bit
secret. So shares that do not belong together give a value that is no 32-byte secret, except with a chance of 2^-265.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Deal ``secret`` (32 bytes): point (1 or more) -> share of SHARE_BYTES.

    ValueError for a threshold that the points cannot meet.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(set(points)) or min(points) < 1:
        raise ValueError("expected a secret of 32 bytes and a threshold of at most the number of distinct points")
    high_to_low = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "big")
    shares = {}
    for point in points:
        value = 0
        for coefficient in high_to_low:
            value = (value + coefficient) * point % PRIME
        shares[point] = ((value + constant) % PRIME).to_bytes(SHARE_BYTES, "big")
    return shares


def is_share(share: bytes) -> bool:
    """Return whether the bytes are a field element in its one form."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME


def join(shares: Mapping[int, bytes]) -> bytes:
    """Restore the secret from point -> share, exactly as many as the threshold; ValueError if they give no secret."""
    points = tuple(sorted(shares))
    total = sum(w * int.from_bytes(shares[p], "big") for p, w in zip(points, _weights(points), strict=True)) % PRIME
    try:
        return total.to_bytes(SECRET_BYTES, "big")
    except OverflowError:
        raise ValueError("the shares do not belong together") from None


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return Lagrange's coefficients at 0. Cached, because mostly the same sites answer for all secrets of a step."""
    weights = []
    for i in points:
        above = below = 1
        for j in points:
            if j != i:
                above = above * -j % PRIME
                below = below * (i - j) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
