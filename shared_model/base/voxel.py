"""Voxel base: a small network estimates the dose of one voxel from its features. Its weights are part of the vector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from torch import Generator, Tensor, nn

from shared_model.base import voxel_network
from shared_model.base.interface import Base, TrainingRows
from shared_model.base.voxel_network import VoxelNetwork, voxel_features
from shared_model.base.voxel_training import draw, training_rows, voxel_loss
from shared_model.channels.features import Features
from shared_model.network.seeding import seeded
from shared_model.patient.case import Case, Volume


class VoxelBase(Base):
    """The network of shared_model/base/voxel_network.py, with the training of shared_model/base/voxel_training.py."""

    def features(self, case: Case) -> Features:
        """The features that the network reads, (n, FEATURES)."""
        return voxel_features(case)

    def dose(self, case: Case, features: Features, weights: bytes) -> Volume | None:
        """The network's dose, (z, y, x) Gy on the case's grid."""
        return voxel_network.predict(case, features, _network(weights))

    def network(self) -> nn.Module | None:
        """A new network with random weights from the specification's ``init_seed``."""
        with seeded(self.spec.init_seed):
            return VoxelNetwork()

    def rows(self, case: Case, features: Features) -> TrainingRows | None:
        """Some voxels of the body and of each structure. Raises InputError if the case has no dose."""
        return training_rows(case, features)

    def loss(self, network: nn.Module, patients: Sequence[TrainingRows], generator: Generator) -> Tensor:
        """The loss () of drawn voxels and of their dose-volume histograms."""
        return voxel_loss(network, draw(patients, generator))

    def patient_loss(
        self, network: nn.Module, plans: Sequence[TrainingRows], views: int, generator: Generator
    ) -> Tensor:
        """The same loss (), with voxels drawn ``views`` times from each plan."""
        return voxel_loss(network, draw([*plans] * views, generator))


@lru_cache(maxsize=4)
def _network(weights: bytes) -> VoxelNetwork:
    return voxel_network.from_weights(weights)
