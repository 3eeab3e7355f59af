"""Phantom base of the residual form: physics features, public coefficients, and a short correction that trains.

The package brings (``priors/phantom-base``) the coefficients of shared_model/base/linear.py fitted to phantom patients,
and 64 directions of their features (shared_model/base/public.py). Hospitals add one number for each direction. These
are few enough to learn under differential privacy from a few dozen patients (docs/results).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from shared_model.base.interface import Base, TrainingRows, dose_ratio
from shared_model.base.linear import VOXELS_PER_PATIENT, design, predict
from shared_model.base.public import PublicBase
from shared_model.bundled import PRIOR_FOLDERS
from shared_model.channels.features import Features
from shared_model.network.device import device_of, moved
from shared_model.patient.case import Case, Volume

# Rows of a patient that one step of training without noise draws.
DRAWN = 512
PUBLIC = PRIOR_FOLDERS / "phantom-base" / "public.npz"


@lru_cache(maxsize=1)
def public_base() -> PublicBase:
    """The coefficients, directions and clip learned on phantoms. They come with the package."""
    with np.load(PUBLIC, allow_pickle=False) as file:
        return PublicBase(weights=file["weights"], directions=file["directions"], clip=float(file["clip"]))


@lru_cache(maxsize=1)
def public_hash() -> str:
    """SHA-256 hex of the file behind ``public_base``. Every party of a federation must have the same file."""
    return hashlib.sha256(PUBLIC.read_bytes()).hexdigest()


class Correction(nn.Module):
    """Rows (n, k + 1) -> dose divided by the highest prescription (n,).

    A row holds the features in k directions, then the prediction of the public coefficients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.correction = nn.Parameter(torch.zeros(public_base().directions.shape[1]))

    def forward(self, rows: Tensor) -> Tensor:
        """Dose divided by the highest prescription, (n,)."""
        return rows[:, :-1] @ self.correction + rows[:, -1]


def coefficients(correction: bytes) -> NDArray[np.float32]:
    """Coefficients (d,) of shared_model/base/linear.py, from the correction's float32 bytes."""
    return public_base().coefficients(np.frombuffer(correction, dtype=np.float32).astype(np.float64))


def phantom_rows(case: Case, features: Features) -> TrainingRows | None:
    """Some of a case's voxels, always the same ones. None for a case without targets, which has no unit of dose.

    Raises InputError if the case has no dose.
    """
    whole = dose_ratio(case)
    if whole is None:
        return None
    n, public = len(features), public_base()
    chosen = np.sort(np.random.RandomState(n).permutation(n)[:VOXELS_PER_PATIENT])
    wide = design(features[chosen]).astype(np.float64)
    rows = np.concatenate([wide @ public.directions, (wide @ public.weights)[:, None]], axis=1)
    return TrainingRows(features=rows.astype(np.float32), ratio=whole[chosen])


def drawn_loss(network: nn.Module, patients: Sequence[TrainingRows], generator: Generator) -> Tensor:
    """Mean absolute error of DRAWN rows of each patient, drawn with replacement, averaged over patients, ()."""
    drawn = [torch.randint(len(p.ratio), (DRAWN,), generator=generator).numpy() for p in patients]
    features = np.concatenate([p.features[rows] for p, rows in zip(patients, drawn, strict=True)])
    ratio = np.concatenate([p.ratio[rows] for p, rows in zip(patients, drawn, strict=True)])
    features_there, ratio_there = (moved(torch.from_numpy(a), device_of(network)) for a in (features, ratio))
    apart = (network(features_there) - ratio_there).abs()
    return torch.stack([part.mean() for part in apart.split(DRAWN)]).mean()


def squared_loss(network: nn.Module, patients: Sequence[TrainingRows]) -> Tensor:
    """Half the mean squared error over all rows, averaged over patients, (). A patient's pull is its negative gradient.

    The pull is that of shared_model/base/public.py.
    """
    losses = []
    for patient in patients:
        features, ratio = (moved(torch.from_numpy(a), device_of(network)) for a in (patient.features, patient.ratio))
        left = network(features) - ratio
        losses.append(left.square().mean() / 2)
    return torch.stack(losses).mean()


class PhantomBase(Base):
    """The public coefficients, and the correction to them that trains."""

    def dose(self, case: Case, features: Features, weights: bytes) -> Volume | None:
        """The corrected dose, (z, y, x) Gy on the case's grid. ``weights`` are those of the correction."""
        return predict(case, features, coefficients(weights))

    def fixed_hash(self) -> str | None:
        """SHA-256 hex of the public numbers."""
        return public_hash()

    def network(self) -> nn.Module | None:
        """A new correction, all zeros."""
        return Correction()

    def rows(self, case: Case, features: Features) -> TrainingRows | None:
        """Some voxels of the body. Raises InputError if the case has no dose."""
        return phantom_rows(case, features)

    def loss(self, network: nn.Module, patients: Sequence[TrainingRows], generator: Generator) -> Tensor:
        """Mean absolute error () of drawn voxels."""
        return drawn_loss(network, patients, generator)

    def patient_loss(self, network: nn.Module, plans: Sequence[TrainingRows]) -> Tensor:
        """Half the mean squared error () over all rows."""
        return squared_loss(network, plans)
