"""What Hydra knows of a run's configuration: its types, and defaults that depend on another key.

Importing this file makes ``${chosen:...}`` and ``run_schema``, which server/conf/base.yaml names, known to Hydra: for
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
    """A default that depends on another key, such as the privacy mode: that of ``word``, or the one called ``else``."""
    return values.get(word, values["else"])


# In server/conf/base.yaml: ${chosen:${privacy.mode},{shared:1,else:25}}.
OmegaConf.register_new_resolver("chosen", choose_default, replace=True)

_SINGLE: Mapping[type, type] = {str: StringNode, int: IntegerNode}


def hydra_schema() -> DictConfig:
    """Types of a run's keys, without a value. The root takes further keys; a group of the run's takes none.

    OmegaConf makes frozen dataclasses read-only, which forbids overrides: here they are not.
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
