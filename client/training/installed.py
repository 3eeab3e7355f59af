"""What the app needs of a model, and the model that is installed with this package.

Torch is imported when a model is first needed, so that a process starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from client.site.config import SiteConfig
from privacy.dp.encoding import Ring
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import EvaluateTask, TrainTask
from shared_model.core.vector import Vector


class Training(Protocol):
    """What the app needs of a model. ``spec_json`` is the coordinator's specification; vectors are (d,) float32."""

    def model(self, spec_json: str) -> tuple[str, int]:
        """Manifest hash and vector length of the model as installed here; raises InputError for an unknown one."""
        ...

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Train locally; returns (update = local - shared, metrics)."""
        ...

    def private_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask, terms: PrivacyTerms
    ) -> Vector | Ring:
        """Train under differential privacy; returns a release in the ring, or in mode local an update."""
        ...

    def evaluate_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: EvaluateTask
    ) -> Mapping[str, float]:
        """Score the shared vector on the site's validation patients."""
        ...


class InstalledTraining:
    """The model that is installed with this package; every method imports torch when it is first called."""

    def model(self, spec_json: str) -> tuple[str, int]:
        """Return manifest hash and vector length; remember those of the latest models."""
        return _installed_model(spec_json)

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Train with client/training/train.py."""
        from client.training.train import train_round
        from shared_model.network.spec import ModelSpec

        return train_round(site, ModelSpec.from_json(spec_json), vector, task)

    def private_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask, terms: PrivacyTerms
    ) -> Vector | Ring:
        """Train with client/training/private_train.py."""
        from client.training.private_train import local_round, private_release
        from shared_model.network.spec import ModelSpec

        return (local_round if terms.mode == "local" else private_release)(
            site, ModelSpec.from_json(spec_json), vector, task, terms
        )

    def evaluate_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: EvaluateTask
    ) -> Mapping[str, float]:
        """Score with client/training/train.py."""
        from client.training.train import evaluate_round
        from shared_model.network.spec import ModelSpec

        return evaluate_round(site, ModelSpec.from_json(spec_json), vector, task)


@lru_cache(maxsize=8)
def _installed_model(spec_json: str) -> tuple[str, int]:
    from shared_model.adapter.manifest import initial_vector, manifest_hash
    from shared_model.network.spec import ModelSpec

    spec = ModelSpec.from_json(spec_json)
    return manifest_hash(spec), int(initial_vector(spec).size)
