"""Where the pairs of low-rank factors lie in an adapter's vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One layer's pair: A (rank, in) at ``a`` of the vector and B (out, rank) at ``b``. The layer adds B A, scaled."""

    a: slice
    b: slice
    rank: int

    def of(self, vector: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return A (rank, in) and B (out, rank) of a vector (d,)."""
        return vector[self.a].reshape(self.rank, -1), vector[self.b].reshape(-1, self.rank)


def find_factors(layout: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[Factors, ...]:
    """The pairs of a vector that holds the named shapes one after another. A convolution's B is 1 x 1 x 1, so that its
    pair multiplies as that of a linear layer does. A factor whose other one does not travel makes no pair."""
    places: dict[str, tuple[slice, tuple[int, ...]]] = {}
    offset = 0
    for name, shape in layout:
        places[name] = (slice(offset, offset + math.prod(shape)), shape)
        offset += math.prod(shape)
    pairs = []
    for name, (where, shape) in places.items():
        other = places.get(name.replace(_A, _B)) if _A in name else None
        if other is not None:
            pairs.append(Factors(a=where, b=other[0], rank=shape[0]))
    return tuple(pairs)
