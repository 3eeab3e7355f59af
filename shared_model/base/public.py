"""A linear dose in few numbers: coefficients from phantoms, and a correction along their features' main directions.

Under differential privacy every number costs noise. So the coefficients of shared_model/base/linear.py start from those
of public phantom patients. Real patients only correct them, by ``k`` numbers: one for each leading direction of the
physics features on phantoms, scaled to variance 1 there. The public directions precondition the gradient steps on these
numbers. So the steps need neither the patients' own Gram matrix (k^2 / 2 more numbers) nor its inverse. Nothing in this
module's data comes from a real patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.base.linear import PENALTY, columns, design
from shared_model.channels.features import Features

Matrix = NDArray[np.floating[Any]]
# One patient: features (n, 24), and dose divided by the highest prescription (n,).
Patient = tuple[Features, NDArray[np.float32]]
# The same along the directions: columns (n, k), and the dose minus what the public coefficients predict (n,).
Reduced = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class PublicBase:
    """``weights`` (d,): phantoms' coefficients. ``directions`` (d, k). ``clip``: most phantoms' pulls are below."""

    weights: Matrix
    directions: Matrix
    clip: float

    def reduce(self, patient: Patient) -> Reduced:
        """Project a patient's rows on the directions, and subtract what the public coefficients predict."""
        rows = design(patient[0]).astype(np.float64)
        return (rows @ self.directions).astype(np.float32), (patient[1] - rows @ self.weights).astype(np.float32)

    def coefficients(self, correction: Matrix) -> NDArray[np.float32]:
        """Coefficients (d,) of shared_model/base/linear.py after a correction (k,)."""
        found: NDArray[np.float32] = (self.weights + self.directions @ correction).astype(np.float32)
        return found


def pull(patient: Reduced, correction: Matrix) -> NDArray[np.float32]:
    """One patient's pull on the correction (k,): the negative gradient of half their mean squared error, (k,)."""
    rows, residual = patient
    left = residual - rows @ correction.astype(np.float32)
    found: NDArray[np.float32] = (rows.T @ left / len(residual)).astype(np.float32)
    return found


def exact_correction(patients: Sequence[Reduced]) -> Matrix:
    """The correction (k,) of ridge regression over all patients, computed without privacy."""
    k = patients[0][0].shape[1]
    gram = sum((rows.T @ rows / len(rows) for rows, _ in patients), np.zeros((k, k))) / len(patients)
    right = sum((pull(patient, np.zeros(k)) for patient in patients), np.zeros(k)) / len(patients)
    solved: Matrix = np.linalg.solve(gram + PENALTY * np.eye(k), right)
    return solved


def learn(patients: Sequence[Patient], count: int) -> PublicBase:
    """Learn from public patients: coefficients, ``count`` directions, and a clip that three quarters of pulls keep."""
    d = columns()
    gram, right = np.zeros((d, d)), np.zeros(d)
    for features, ratio in patients:
        rows = design(features).astype(np.float64)
        gram += rows.T @ rows / (len(rows) * len(patients))
        right += rows.T @ ratio / (len(rows) * len(patients))
    weights: Matrix = np.linalg.solve(gram + PENALTY * np.eye(d), right)
    values, vectors = np.linalg.eigh(gram)
    directions = vectors[:, ::-1][:, :count] / np.sqrt(np.maximum(values[::-1][:count], 1e-9))
    public = PublicBase(weights=weights, directions=directions, clip=1.0)
    norms = [float(np.linalg.norm(pull(public.reduce(patient), np.zeros(count)))) for patient in patients]
    return PublicBase(weights=weights, directions=directions, clip=float(np.quantile(norms, 0.75)))
