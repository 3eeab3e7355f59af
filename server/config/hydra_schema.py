"""Tells Hydra the types of a run's keys, and how to find a default that depends on another key.

server/conf/base.yaml uses ``${chosen:...}`` and ``run_schema``. Importing this file registers both with Hydra, for
`server run` and for `simulate run`, which adds keys of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, IntegerNode, OmegaConf, StringNode

from server.config.run import RunConfig


def choose_default(word: str, values: Mapping[str, Any]) -> Any:
    """Return the default for ``word``, the value of another key such as privacy.mode, or the one under ``else``."""
    return values.get(word, values["else"])


# In server/conf/base.yaml: ${chosen:${privacy.mode},{shared:1,else:25}}.
OmegaConf.register_new_resolver("chosen", choose_default, replace=True)

_SINGLE: Mapping[type, type] = {str: StringNode, int: IntegerNode}


def hydra_schema() -> DictConfig:
    """Types of a run's keys, without values. Further keys may be added at the root, but not in a run's own groups.

    OmegaConf makes frozen dataclasses read-only, which would forbid overrides. So this lifts the read-only mark.
    """
    schema, hints = OmegaConf.create({}), get_type_hints(RunConfig)
    for key in (field.name for field in fields(RunConfig)):
        kind = hints[key]
        if is_dataclass(kind):
            schema[key] = OmegaConf.structured(kind)
            OmegaConf.set_readonly(schema[key], None)
        else:
            # The model is checked by ModelSpec; its keys are those of base.yaml.
            schema[key] = _SINGLE[kind]("???") if kind in _SINGLE else {}
    return schema


ConfigStore.instance().store(name="run_schema", node=hydra_schema())
