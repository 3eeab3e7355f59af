"""Composes a run's configuration with Hydra: overrides from the command line in, one checked RunConfig out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import server.config.hydra_schema  # noqa: F401  # makes run_schema and ${chosen:...} known to Hydra
from server.config.privacy import check_sums, fewest_sites
from server.config.renamed import refuse_old_keys
from server.config.run import RunConfig
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.patient.anatomy import HEAD_NECK

CONFIG_MODULE = "server.conf"
CONFIG_NAME = "run"


def compose_run(overrides: Sequence[str], sites: int = 0) -> RunConfig:
    """Compose server/conf/run.yaml with `overrides` (`rounds.count=3 model.adapter=lora`), strictly.

    ``sites``: the number of sites on the roster, used where `privacy.sites` is 0. InputError names the key if an
    override is unknown, has the wrong type or is out of range, or if secure aggregation cannot do what it asks.
    """
    plain = compose_values(overrides, sites)
    ModelSpec.from_json(json.dumps(plain["model"]))
    config = RunConfig.from_json(json.dumps(_resolve_paths(plain)))
    check_sums(config)
    _check_public_patients(config)
    return config


def _check_public_patients(config: RunConfig) -> None:
    """The public patients of the package are phantoms of a neck: they say nothing of another site of the body."""
    site = str(config.model.get("body_site", HEAD_NECK))
    if site != HEAD_NECK and config.rounds.judged and not config.rounds.public_cases:
        raise InputError(
            f"rounds.public_cases: expected a file of public patients of the {site} (simulate public-set), or"
            " rounds.public_step=0 rounds.public_worst=0: those of the package are of head and neck"
        )


def compose_values(overrides: Sequence[str], sites: int = 0) -> dict[str, Any]:
    """Compose the whole configuration as `compose_run` does, without its checks: `server run --cfg job` prints it."""
    refuse_old_keys(overrides)
    plain = OmegaConf.to_container(compose_config(overrides), resolve=True)
    assert isinstance(plain, dict)
    return _fill_counts({str(key): value for key, value in plain.items()}, sites)


def as_yaml(values: dict[str, Any]) -> str:
    """A composed configuration as Hydra prints it."""
    return OmegaConf.to_yaml(OmegaConf.create(values))


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose server/conf/run.yaml with `overrides`; a default that depends on another key stays as ${...}."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            composed = compose(CONFIG_NAME, overrides=list(overrides))
        OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"run configuration: {one_line(error)}; `server run --cfg job` prints all keys") from error
    assert isinstance(composed, DictConfig)
    return composed


def _fill_counts(plain: dict[str, Any], sites: int) -> dict[str, Any]:
    """Fill in the values that follow from the number of sites, where they are 0."""
    privacy, rounds = dict(plain["privacy"]), dict(plain["rounds"])
    privacy["sites"] = privacy["sites"] or sites
    fewest = fewest_sites(privacy["mode"], privacy["sites"], privacy["colluders"])
    rounds["min_sites"] = rounds["min_sites"] or fewest
    return {**plain, "privacy": privacy, "rounds": rounds}


def _resolve_paths(plain: dict[str, Any]) -> dict[str, Any]:
    """Make paths absolute, because the run's process starts in another folder; InputError if a path is no file."""
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


def one_line(error: BaseException) -> str:
    """First line of an error of Hydra (the override), and of its cause (what is wrong with it)."""
    texts = [str(text).strip() for text in (error, error.__cause__) if text is not None]
    return ": ".join(text.splitlines()[0] for text in texts if text) or type(error).__name__
