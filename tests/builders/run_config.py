"""Run configurations for tests: the defaults of mode none from server/conf/base.yaml, and what a test changes."""

from dataclasses import replace
from typing import Any

from server.config.compose import compose_run
from server.config.groups import AggregateConfig, PrivacyConfig, RoundsConfig, TrainConfig
from server.config.run import RunConfig

_PLAIN = replace(compose_run(["privacy.mode=none"]), model={})


def plain_run(**changes: Any) -> RunConfig:
    """A run in mode none, of a model that nobody looks at."""
    return replace(_PLAIN, **changes)


def train_config(**changes: Any) -> TrainConfig:
    """Its group ``train``."""
    return replace(_PLAIN.train, **changes)


def rounds_config(**changes: Any) -> RoundsConfig:
    """Its group ``rounds``."""
    return replace(_PLAIN.rounds, **changes)


def aggregate_config(**changes: Any) -> AggregateConfig:
    """Its group ``aggregate``."""
    return replace(_PLAIN.aggregate, **changes)


def privacy_config(**changes: Any) -> PrivacyConfig:
    """Its group ``privacy``."""
    return replace(_PLAIN.privacy, **changes)
