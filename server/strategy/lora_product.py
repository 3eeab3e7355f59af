"""LoRA averaged as what it does: the mean of the products B A, not the product of the means of B and A."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.strategy.update_sum import check_update
from shared_model.adapter.factors import Factors
from shared_model.core.errors import FedKT3DError
from shared_model.core.vector import Vector

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    update: Vector
    weight: int
    digest: bytes


class LoraProduct:
    """The mean of the sites' products B A, as the nearest product of two factors of the same rank (Eckart-Young).

    Averaging A and B apart adds cross terms of one site's A with another's B (Sun et al. 2024, arXiv:2403.12313; Wang
    et al. 2024, arXiv:2409.05976 stack the factors instead and grow with the sites). Here the stacked factors are
    brought back to the rank by a singular value decomposition. Numbers that belong to no pair are averaged. Keeps every
    update, so it works where the coordinator sees them: mode none.
    """

    def __init__(self, vector: Vector, pairs: Sequence[Factors], max_norm: float) -> None:
        self._vector, self._pairs, self._max_norm = vector, pairs, max_norm
        self._kept: list[_Kept] = []

    def add(self, update: Vector, weight: int) -> float:
        """Keep an update (d,) float32 of ``weight``. Returns its norm; raises UpdateRejectedError."""
        norm = check_update(update, self._vector.size, self._max_norm)
        self._kept.append(_Kept(update=update, weight=weight, digest=hashlib.sha256(update.tobytes()).digest()))
        return norm

    def mean(self) -> NDArray[np.float64]:
        """Return what takes the shared vector to the joined factors, (d,) float64. FedKT3DError without updates."""
        if not self._kept:
            raise FedKT3DError("LoRA products: no update was added, so there is no mean")
        # One order for all orders of arrival, so that the last bits are the same.
        kept = sorted(self._kept, key=lambda one: (one.weight, one.digest))
        whole = sum(one.weight for one in kept)
        start = self._vector.astype(np.float64)
        out = np.zeros(self._vector.size, dtype=np.float64)
        for one in kept:
            out += one.update.astype(np.float64) * (one.weight / whole)
        for pair in self._pairs:
            found = [(one.weight / whole, *pair.of(start + one.update)) for one in kept]
            a, b = _refactored(found, pair.rank)
            out[pair.a] = a.ravel() - start[pair.a]
            out[pair.b] = b.ravel() - start[pair.b]
        return out


def _refactored(terms: Sequence[tuple[float, Matrix, Matrix]], rank: int) -> tuple[Matrix, Matrix]:
    """A (rank, in) and B (out, rank) whose product is nearest to the sum of share * B A, and of equal size."""
    left, small_left = np.linalg.qr(np.concatenate([share * b for share, _, b in terms], axis=1))
    right, small_right = np.linalg.qr(np.concatenate([a for _, a, _ in terms], axis=0).T)
    u, singular, vh = np.linalg.svd(small_left @ small_right.T, full_matrices=False)
    root = np.sqrt(singular[:rank])
    b, a = np.zeros((left.shape[0], rank)), np.array(sum(share * a for share, a, _ in terms))
    # A direction that the product does not have keeps the mean of the A, with B 0: as LoRA starts, and can be learned.
    there = np.flatnonzero(root > 1e-7 * max(1.0, float(root[0])))
    b[:, there] = left @ u[:, there] * root[there]
    a[there] = root[there, None] * (vh[there] @ right.T)
    return a, b
