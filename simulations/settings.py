"""Hydra composition of the `simulate` commands: YAML in simulations/conf, overrides typed here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from server.config import RunConfig
from shared_model.errors import InputError
from shared_model.spec import ModelSpec

STUDIES: tuple[str, ...] = ("federated", "local", "centralised")
SPLITS: tuple[str, ...] = ("train", "validation", "test", "all")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where patients come from. ``openkbp`` needs ``root``; ``phantom`` makes ``sites`` hospitals of ``patients``."""

    kind: str
    root: Path | None = None
    train_per_site: int = 0
    validation_per_site: int = 0
    sites: int = 4
    patients: int = 12

    def __post_init__(self) -> None:
        if self.kind not in ("openkbp", "phantom"):
            raise InputError(f"data.kind={self.kind!r}: expected openkbp or phantom")
        if self.kind == "openkbp" and (self.root is None or not (self.root / "splits.json").is_file()):
            raise InputError(f"data.root={self.root}: expected a folder with OpenKBP's splits.json and half64/")
        _check_range("data.sites", self.sites, 1, 64)
        _check_range("data.patients", self.patients, 2, 10_000)
        _check_range("data.train_per_site", self.train_per_site, 0, 10_000)
        _check_range("data.validation_per_site", self.validation_per_site, 0, 10_000)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """``simulate run``: what to compare, on which data, with which federation (``federation`` is the server's own)."""

    out: Path
    study: tuple[str, ...]
    partition: str
    engine: str
    workers: int
    threads: int
    data: DataSettings
    prior_path: Path | None
    federation: RunConfig
    spec: ModelSpec
    resolved: str = field(repr=False)

    def __post_init__(self) -> None:
        unknown = [s for s in self.study if s not in STUDIES]
        if unknown or not self.study or len(set(self.study)) != len(self.study):
            raise InputError(f"study={list(self.study)}: expected some of {', '.join(STUDIES)}, each once")
        if self.engine not in ("local", "ray"):
            raise InputError(f"engine={self.engine!r}: expected local or ray")
        _check_range("workers", self.workers, 1, 256)
        _check_range("threads", self.threads, 1, 256)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """``simulate evaluate``: one adapter on one cohort."""

    adapter: str
    split: str
    out: Path
    seed: int
    threads: int
    sampler_steps: int
    candidates: int
    data: DataSettings
    prior_path: Path | None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"split={self.split!r}: expected one of {', '.join(SPLITS)}")
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("sampler_steps", self.sampler_steps, 1, 1000)
        _check_range("candidates", self.candidates, 1, 64)
        _check_range("threads", self.threads, 0, 256)


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """``simulate pretrain``: the small prior on phantom patients."""

    seed: int
    out: Path
    patients: int
    workers: int
    threads: int
    steps: int
    batch_size: int
    lr: float
    lr_final_fraction: float
    dose_share: float
    grad_clip: float
    weight_decay: float
    log_every: int

    def __post_init__(self) -> None:
        for key, low, high in (
            ("seed", 0, 2**40),
            ("patients", 1, 100_000),
            ("workers", 1, 256),
            ("threads", 1, 256),
            ("steps", 1, 10_000_000),
            ("batch_size", 1, 4096),
            ("log_every", 1, 10_000_000),
        ):
            _check_range(key, getattr(self, key), low, high)
        for key, least, most in (
            ("lr", 1e-12, 10.0),
            ("lr_final_fraction", 0.0, 1.0),
            ("dose_share", 0.0, 1.0),
            ("grad_clip", 1e-12, 1e6),
            ("weight_decay", 0.0, 1.0),
        ):
            value = getattr(self, key)
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(f"{key}={value!r}: expected a number from {least:g} to {most:g}")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"out={self.out}: is no folder; the prior and its card are written to a folder")


def _check_range(key: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{key}={value!r}: expected a whole number from {low} to {high}")


def _compose(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """(values, resolved YAML) of a configuration with overrides; InputError names a bad key in one line."""
    for override in overrides:
        if override.startswith(("+", "~")):
            raise InputError(f"simulate {name}: {override}: keys can be changed, not added or removed")
    try:
        with initialize_config_module("simulations.conf", version_base="1.3"):
            composed = compose(name, overrides=list(overrides))
        assert isinstance(composed, DictConfig)
        for key in OmegaConf.missing_keys(composed):
            raise InputError(f"{key} is missing; give it on the command line: {key}=...")
        values = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(values, dict)
        return {str(k): v for k, v in values.items()}, OmegaConf.to_yaml(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra's own for a group that is a number
        raise InputError(f"simulate {name}: {' '.join(str(error).split())[:300]}") from error


def _data(raw: dict[str, Any]) -> DataSettings:
    values = dict(_mapping(raw, "data"))
    root = values.pop("root", None)
    return DataSettings(root=None if root is None else _path(root, "data.root"), **values)


def _mapping(raw: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(raw[key], dict):
        raise InputError(f"{key}={raw[key]!r}: expected keys below it, as in {key}.NAME=VALUE")
    values: dict[str, Any] = raw[key]
    return values


def _path(value: object, key: str) -> Path:
    # A name made of digits alone is a number to Hydra.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{key}={value!r}: expected a path")
    try:
        return Path(str(value)).expanduser()
    except RuntimeError:
        raise InputError(f"{key}={value}: that user has no home folder") from None


def _prior_path(raw: dict[str, Any]) -> Path | None:
    path = _mapping(raw, "prior").get("path")
    return None if path is None else _path(path, "prior.path")


def run_settings(overrides: Sequence[str]) -> RunSettings:
    """Compose and check ``simulate run``'s settings."""
    raw, resolved = _compose("run", overrides)
    study = raw["study"]
    rounds = {"count": raw["rounds"], **_mapping(raw, "round")}
    federation = RunConfig.from_json(
        json.dumps(
            {
                "name": raw["name"],
                "seed": raw["seed"],
                "model": raw["model"],
                "train": raw["train"],
                "rounds": rounds,
                "aggregate": raw["aggregate"],
                "evaluate": raw["evaluate"],
                "privacy": {"mode": raw["privacy"]},
            }
        )
    )
    return RunSettings(
        out=_path(raw["out"], "out"),
        study=tuple(study) if isinstance(study, list) else (str(study),),
        partition=raw["partition"],
        engine=raw["engine"],
        workers=raw["workers"],
        threads=raw["threads"],
        data=_data(raw),
        prior_path=_prior_path(raw),
        federation=federation,
        spec=ModelSpec.from_json(json.dumps(raw["model"])),
        resolved=resolved,
    )


def evaluate_settings(overrides: Sequence[str]) -> EvaluateSettings:
    """Compose and check ``simulate evaluate``'s settings."""
    raw, _ = _compose("evaluate", overrides)
    adapter, prior_path = str(_path(raw["adapter"], "adapter")), _prior_path(raw)
    raw.pop("prior")
    known = {"adapter": adapter, "out": _path(raw["out"], "out"), "data": _data(raw), "prior_path": prior_path}
    return EvaluateSettings(**{**raw, **known})


def pretrain_settings(overrides: Sequence[str]) -> PretrainSettings:
    """Compose and check ``simulate pretrain``'s settings."""
    raw, _ = _compose("pretrain", overrides)
    return PretrainSettings(**{**raw, "out": _path(raw["out"], "out")})
