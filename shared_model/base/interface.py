"""What every base offers the system: features, a dose, training rows, losses, weights and a hash.

A base is one file in this room and one line in ``BASES`` (shared_model/network/spec.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from shared_model.channels.features import Features, highest_gy, physics_features
from shared_model.core.errors import InputError
from shared_model.network.spec import BASES, ModelSpec
from shared_model.patient.case import Case, Volume

# Training cuts off dose / highest prescription here, so that strange voxels do not dominate.
RATIO_CUT = 3.0


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Voxels of one patient: features (m, f), and ``ratio`` (m,), dose divided by the highest prescription."""

    features: NDArray[np.float32]
    ratio: NDArray[np.float32]


class Base:
    """The base of one model specification. ``none`` has only ``dose``; every other base implements all methods."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def features(self, case: Case) -> Features:
        """The features that the base reads, (n, f): one row for each voxel of the body."""
        return physics_features(case)

    def dose(self, case: Case, features: Features, weights: bytes) -> Volume | None:
        """The base dose, (z, y, x) Gy on the case's grid, from ``features`` and the network's ``weights``."""
        raise NotImplementedError

    def fixed_hash(self) -> str | None:
        """SHA-256 hex of the base's fixed part. None if it has no fixed part."""
        return None

    def network(self) -> nn.Module | None:
        """A new network, which is the part that trains. None if no part trains."""
        return None

    def rows(self, case: Case, features: Features) -> TrainingRows | None:
        """Some of a case's voxels to train on, always the same ones. None for a case without targets.

        Raises InputError if the case has no dose.
        """
        raise NotImplementedError

    def loss(self, network: nn.Module, patients: Sequence[TrainingRows], generator: Generator) -> Tensor:
        """The loss () of one training step over some patients."""
        raise NotImplementedError

    def patient_loss(self, network: nn.Module, plans: Sequence[TrainingRows]) -> Tensor:
        """The loss () of one patient, who may have several plans. It draws nothing."""
        raise NotImplementedError


def base_of(spec: ModelSpec) -> Base:
    """The base that a specification asks for."""
    made: Base = resolve_name(BASES[spec.base])(spec)
    return made


def dose_ratio(case: Case) -> NDArray[np.float32] | None:
    """Dose of the body's n voxels in C order divided by the highest prescription, (n,), cut off at RATIO_CUT.

    None for a case without targets, which has no unit of dose. Raises InputError if the case has no dose.
    """
    if case.dose_gy is None:
        raise InputError(f"case {case.case_id}: no dose; the base cannot be trained on it")
    unit_gy = highest_gy(case)
    return np.minimum(case.dose_gy[case.body] / np.float32(unit_gy), RATIO_CUT).astype(np.float32) if unit_gy else None
