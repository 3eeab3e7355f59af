"""Hydra composition for the `simulate` commands, and checks of single values: one line that names the key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from server.config.compose import one_line  # with it run_schema and ${chosen:...} are known to Hydra
from shared_model.core.device_words import DEVICES, is_device_word
from shared_model.core.errors import InputError

# Hydra's message continues with advice to add the key, but we refuse added keys.
_UNKNOWN = re.compile(r"Could not override '([^']+)'")


def check_range(key: str, value: object, low: int, high: int) -> None:
    """InputError unless ``value`` is a whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{key}={value!r}: expected a whole number from {low} to {high}")


def check_device(word: object) -> None:
    """InputError unless ``word`` is one that the key ``device`` knows."""
    if not is_device_word(word):
        raise InputError(f"device={word!r}: expected {DEVICES}")


def check_number(key: str, value: object, least: float, most: float) -> None:
    """InputError unless ``value`` is a number from ``least`` to ``most``."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{key}={value!r}: expected a number from {least:g} to {most:g}")


def compose_values(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """(values, resolved YAML) of a configuration with overrides; InputError names a bad key in one line."""
    config = compose_config(name, overrides)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}, OmegaConf.to_yaml(config, resolve=True)


def _quoted(override: str) -> str:
    """``device=cuda:0,1`` in the quotes without which Hydra takes a comma for a sweep of values."""
    key, _, value = override.partition("=")
    return f"{key}='{value}'" if key == "device" and is_device_word(value) else override


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """simulations/conf/NAME.yaml with overrides; InputError names a value that is missing or cannot be resolved."""
    overrides = [_quoted(override) for override in overrides]
    for override in overrides:
        if override.startswith(("+", "~")):
            raise InputError(f"simulate {name}: {override}: keys can be changed, not added or removed")
    try:
        with initialize_config_module("simulations.conf", version_base="1.3"):
            config = compose(name, overrides=list(overrides))
        assert isinstance(config, DictConfig)
        for key in OmegaConf.missing_keys(config):
            raise InputError(f"{key} is missing; give it on the command line: {key}=...")
        OmegaConf.to_container(config, resolve=True)
        return config
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra's own for a group that is a number
        unknown = _UNKNOWN.match(str(error))
        if unknown:
            raise InputError(f"simulate {name}: no key {unknown[1]!r}; docs/simulate.md lists the keys") from error
        raise InputError(f"simulate {name}: {one_line(error)[:300]}") from error


def mapping(raw: dict[str, Any], key: str) -> dict[str, Any]:
    """The keys below ``key``; InputError if it holds a single value."""
    if not isinstance(raw[key], dict):
        raise InputError(f"{key}={raw[key]!r}: expected keys below it, as in {key}.NAME=VALUE")
    values: dict[str, Any] = raw[key]
    return values


def several(raw: dict[str, Any], key: str, name: str = "") -> tuple[Any, ...]:
    """The values of a list, or of a single value that stands for a list of one; errors say ``name`` or ``key``."""
    values = tuple(raw[key]) if isinstance(raw[key], list) else (raw[key],)
    if any(value is None or isinstance(value, list | dict) for value in values):
        raise InputError(f"{name or key}={raw[key]!r}: expected a value, or a list of values as in {name or key}=[1,2]")
    return values


def optional_path(value: object, key: str) -> Path | None:
    """A path as ``path`` returns it, or None for null."""
    return None if value is None else path(value, key)


def path(value: object, key: str) -> Path:
    """A path with ``~`` expanded; InputError if ``value`` is not a path."""
    # Hydra reads a name of only digits as a number.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{key}={value!r}: expected a path")
    try:
        return Path(str(value)).expanduser()
    except RuntimeError:
        raise InputError(f"{key}={value}: that user has no home folder") from None
