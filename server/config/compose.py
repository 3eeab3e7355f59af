"""`server run` and Hydra: overrides on the command line in, one checked RunConfig out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from server.config.hydra_schema import hydra_schema
from server.config.privacy import check_sums, fewest_sites
from server.config.run import RunConfig
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec

CONFIG_MODULE = "server.conf"
CONFIG_NAME = "run"


def compose_run(overrides: Sequence[str], sites: int = 0) -> RunConfig:
    """Compose server/conf/run.yaml with `overrides` (`rounds.count=3 model.adapter=lora`), strictly.

    ``sites``: how many the roster admits, where `privacy.sites` names no other number. InputError names the key of an
    unknown or ill-typed override, of a value out of range, and of what secure aggregation cannot do.
    """
    ConfigStore.instance().store(name="run_schema", node=hydra_schema())
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            composed = compose(CONFIG_NAME, overrides=list(overrides))
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"run configuration: {_one_line(error)}; see `server run --show`") from error
    assert isinstance(plain, dict)
    ModelSpec.from_json(json.dumps(plain["model"]))
    config = RunConfig.from_json(json.dumps(_placed(_counted(plain, sites))))
    check_sums(config)
    return config


def _counted(plain: dict[Any, Any], sites: int) -> dict[Any, Any]:
    """Fill in what follows from the number of sites, where it was left at 0."""
    privacy, rounds = dict(plain["privacy"]), dict(plain["rounds"])
    privacy["sites"] = privacy["sites"] or sites
    fewest = fewest_sites(privacy["mode"], privacy["sites"], privacy["colluders"])
    rounds["min_sites"] = rounds["min_sites"] or fewest
    return {**plain, "privacy": privacy, "rounds": rounds}


def _placed(plain: dict[Any, Any]) -> dict[Any, Any]:
    """Make paths whole, since the run's own process starts elsewhere; InputError where one names no file."""
    rounds = {**plain["rounds"], "public_cases": _file(plain["rounds"]["public_cases"], "rounds.public_cases")}
    return {**plain, "initial": _file(plain["initial"], "initial"), "rounds": rounds}


def _file(name: str, key: str) -> str:
    if not name:
        return ""
    try:
        path = Path(name).expanduser().resolve()
        if path.is_file():
            return str(path)
        why = "no such file"
    except (OSError, RuntimeError) as error:  # RuntimeError: an unknown user's home
        why = getattr(error, "strerror", None) or str(error)
    raise InputError(f"run configuration: {key}={name}: {why}")


def _one_line(error: BaseException) -> str:
    """First line of Hydra's message (the override) and of its cause (what is wrong with it)."""
    texts = [str(text).strip() for text in (error, error.__cause__) if text is not None]
    return ": ".join(text.splitlines()[0] for text in texts if text) or type(error).__name__
