"""What Hydra knows of a run's configuration: its types, and defaults that depend on another key.

Importing this file makes ``${chosen:...}`` known to OmegaConf, here and for `simulate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from server.config.run import RunConfig


def chosen(word: str, values: Mapping[str, Any]) -> Any:
    """A default that depends on another key, such as the privacy mode: that of ``word``, or the one called ``else``."""
    return values.get(word, values["else"])


# In the YAML of `server run` and `simulate run`: ${chosen:${privacy.mode},{shared:1,else:25}}.
OmegaConf.register_new_resolver("chosen", chosen, replace=True)


def hydra_schema() -> DictConfig:
    """Typed node for Hydra's ConfigStore. OmegaConf makes frozen dataclasses read-only, which forbids overrides."""
    schema = OmegaConf.structured(RunConfig)
    for key in ("train", "rounds", "aggregate", "evaluate", "privacy"):
        OmegaConf.set_readonly(schema[key], None)
    OmegaConf.set_readonly(schema, None)
    assert isinstance(schema, DictConfig)
    return schema
