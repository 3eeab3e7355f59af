"""The optimiser and the rule that a run's configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.config.groups import AggregateConfig
from server.strategy.fedadam import FedAdam
from server.strategy.fedavg import FedAvg
from server.strategy.fedavgm import FedAvgM
from server.strategy.interface import ServerOptimiser, UpdateRule
from server.strategy.lora_product import LoraProduct
from server.strategy.trimmed_mean import TrimmedMean
from server.strategy.update_sum import UpdateSum
from shared_model.adapter.factors import Factors
from shared_model.core.vector import Vector


def server_optimiser(config: AggregateConfig) -> ServerOptimiser:
    """Make the optimiser that the run's configuration names."""
    if config.name == "fedadam":
        return FedAdam(lr=config.lr, beta1=config.beta1, beta2=config.beta2, tau=config.tau)
    if config.name == "fedavgm":
        return FedAvgM(lr=config.lr, beta1=config.beta1)
    return FedAvg(lr=config.lr)


@dataclass(frozen=True, kw_only=True)
class Joining:
    """How the updates of a round are joined: the configuration, the largest norm, and the model's low-rank pairs."""

    config: AggregateConfig
    max_norm: float
    pairs: Sequence[Factors] = ()

    def rule(self, vector: Vector, sites: int) -> UpdateRule:
        """Make the rule of a round that starts at ``vector`` (d,) with at most so many sites."""
        if self.config.rule == "trimmed":
            return TrimmedMean(vector.size, self.config.trim, self.max_norm)
        if self.config.rule == "median":
            return TrimmedMean(vector.size, 0.5, self.max_norm)
        if self.config.rule == "product":
            return LoraProduct(vector, self.pairs, self.max_norm)
        return UpdateSum(vector.size, sites, self.max_norm)
