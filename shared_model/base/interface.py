"""What the system asks of a base: features, a dose, training rows, losses, weights and a hash.

An implementation is one file of this room and one line of ``BASES`` (shared_model/network/spec.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from shared_model.base.features import Features, highest_gy, physics_features
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume

# Dose over the highest prescription, as a target of training: strange voxels do not dominate.
RATIO_CUT = 3.0


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Voxels of one patient: features (m, f), dose over the highest prescription (m,), and where they are from.

    ``parts``: row numbers, those of the body at large first, then those of each structure that is there.
    """

    features: NDArray[np.floating[Any]]
    ratio: NDArray[np.float32]
    parts: tuple[NDArray[np.intp], ...]


class Base:
    """The base of one model specification. What only some bases have does nothing here.

    ``dose`` is of every base. A base that trains also has ``network``, ``rows`` and both losses. A base that is fitted
    in closed form has ``coefficients`` and ``with_coefficients``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def features(self, case: Case) -> Features:
        """What the base reads of a case, (n, f): a row for each voxel of the body."""
        return physics_features(case)

    def dose(self, case: Case, features: Features, weights: bytes) -> Volume | None:
        """The base dose, (z, y, x) Gy on the case's grid, from ``features`` and the network's ``weights``."""
        raise NotImplementedError

    def fixed_hash(self) -> str | None:
        """SHA-256 hex of what is fixed of the base; None where nothing is, or not yet."""
        return None

    def network(self) -> nn.Module | None:
        """A new network, the part that trains."""
        return None

    def rows(self, case: Case, features: Features) -> TrainingRows | None:
        """Some of a case's voxels to train on, always the same; None for a case without targets.

        Raises InputError if the case has no dose.
        """
        raise NotImplementedError

    def loss(self, network: nn.Module, patients: Sequence[TrainingRows], generator: Generator) -> Tensor:
        """Loss of one training step over some patients, ()."""
        raise NotImplementedError

    def patient_loss(
        self, network: nn.Module, plans: Sequence[TrainingRows], views: int, generator: Generator
    ) -> Tensor:
        """Loss of one patient, who may have several plans, averaged over ``views`` draws where there are any, ()."""
        raise NotImplementedError

    def coefficients(self) -> NDArray[np.float32]:
        """The fitted coefficients (d,) in the specification. Raises InputError where they are missing or wrong."""
        raise NotImplementedError

    def with_coefficients(self, coefficients: NDArray[np.float32]) -> ModelSpec:
        """The specification with fitted ``coefficients`` (d,) in it."""
        raise NotImplementedError


def base_of(spec: ModelSpec) -> Base:
    """The base that a specification asks for."""
    made: Base = resolve_name(spec.base_kind.implementation)(spec)
    return made


def dose_ratio(case: Case) -> NDArray[np.float32] | None:
    """(n,) dose of the body's voxels in C order over the highest prescription, cut off at RATIO_CUT.

    None for a case without targets, who has no unit of dose. Raises InputError if the case has no dose.
    """
    if case.dose_gy is None:
        raise InputError(f"case {case.case_id}: no dose; the base cannot be trained on it")
    unit_gy = highest_gy(case)
    return np.minimum(case.dose_gy[case.body] / np.float32(unit_gy), RATIO_CUT).astype(np.float32) if unit_gy else None
