"""The ridge base in few numbers: what phantoms teach, and a correction in the directions in which their features vary.

Under differential privacy every number costs noise. So the sums of shared_model/base.py are taken of few columns: the
physics features' leading directions on public phantom patients, scaled there to variance 1, against the residual of
the coefficients that phantoms give. Nothing in here has seen a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.base import PENALTY, Rows, columns, design
from shared_model.base_features import Features

Matrix = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class PublicBase:
    """``weights`` (d,): phantoms' own coefficients; ``directions`` (d, k): columns of few numbers; ``clip``: C."""

    weights: Matrix
    directions: Matrix
    clip: float

    @property
    def size(self) -> int:
        """Numbers of one patient's sums: the triangle of the Gram matrix, and its products with the residual."""
        k = int(self.directions.shape[1])
        return k * (k + 1) // 2 + k

    def sums(self, features: Features, ratio: NDArray[np.float32]) -> NDArray[np.float32]:
        """One patient's mean products (size,), from rows of features (n, 24) and dose over prescription (n,).

        Entries off the diagonal stand once, times sqrt 2: the vector's norm is that of the matrix.
        """
        rows = design(features, 0).astype(np.float64)
        return _sums(rows @ self.directions, ratio - rows @ self.weights)

    def coefficients(self, mean: NDArray[np.float64], noise: float) -> NDArray[np.float32]:
        """Coefficients (d,) from mean sums (size,) that hold noise of standard deviation ``noise`` a number.

        The penalty is the size of the noise matrix, a public number; with less the noise would be inverted.
        """
        k = self.directions.shape[1]
        gram = np.zeros((k, k))
        upper = np.triu_indices(k)
        gram[upper] = mean[:-k] / np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
        gram = gram + np.triu(gram, 1).T
        values, vectors = np.linalg.eigh(gram)
        # Negative directions are noise alone.
        values = np.maximum(values, 0.0) + PENALTY + noise * np.sqrt(2.0 * k)
        correction = vectors @ ((vectors.T @ mean[-k:]) / values)
        found: NDArray[np.float32] = (self.weights + self.directions @ correction).astype(np.float32)
        return found


def _sums(rows: Matrix, residual: NDArray[np.float64]) -> NDArray[np.float32]:
    n, k = rows.shape
    gram = rows.T @ rows / n
    upper = np.triu_indices(k)
    scaled = gram[upper] * np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
    return np.concatenate([scaled, rows.T @ residual / n]).astype(np.float32)


def learn(patients: list[tuple[Features, NDArray[np.float32]]], count: int) -> PublicBase:
    """From public patients, (features (n, 24), ratio (n,)) each: coefficients, ``count`` directions, and the clip.

    The clip is the norm that three quarters of these patients stay below.
    """
    designs: list[Rows] = [design(features, 0) for features, _ in patients]
    d = columns(0)
    gram, right = np.zeros((d, d)), np.zeros(d)
    for rows, (_, ratio) in zip(designs, patients, strict=True):
        exact = rows.astype(np.float64)
        gram += exact.T @ exact / (len(exact) * len(patients))
        right += exact.T @ ratio / (len(exact) * len(patients))
    weights: Matrix = np.linalg.solve(gram + PENALTY * np.eye(d), right)
    values, vectors = np.linalg.eigh(gram)
    directions = vectors[:, ::-1][:, :count] / np.sqrt(np.maximum(values[::-1][:count], 1e-9))
    public = PublicBase(weights=weights, directions=directions, clip=1.0)
    norms = [float(np.linalg.norm(public.sums(features, ratio))) for features, ratio in patients]
    return PublicBase(weights=weights, directions=directions, clip=float(np.quantile(norms, 0.75)))
