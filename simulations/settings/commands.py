"""Settings of the `simulate` commands: YAML in simulations/conf, overrides typed and checked here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from privacy.dp.terms import SUMMED
from server.config.renamed import refuse_old_keys
from server.config.run import RunConfig
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.patient.anatomy import HEAD_NECK
from simulations.settings.composition import (
    check_device,
    check_range,
    compose_values,
    mapping,
    optional_path,
    path,
    several,
)
from simulations.settings.ray_address import ray_address

STUDIES: tuple[str, ...] = ("federated", "local", "centralised")
BASELINES: tuple[str, ...] = ("constant", "atlas", "gbm5", "gbm24", "ridge", "unet", "voxel")
# Parts of the body that there are phantoms of (BODY_STYLES in simulations/phantom/hospitals.py has their styles).
PHANTOM_SITES: tuple[str, ...] = (HEAD_NECK, "pelvis")
# The folder of a clone of OpenKBP's repository that holds the patients.
CLONE_FOLDER = "provided-data"
SPLITS: tuple[str, ...] = ("train", "validation", "test", "all")
# Modalities that `simulate evaluate` can withhold.
WITHHELD = ("ct", "oar", "beam", "angle")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where patients come from. ``openkbp`` needs ``root``; ``phantom`` makes ``sites`` hospitals of ``patients``.

    ``clips`` makes ``sites`` of ``patients`` procedural clips (simulations/data/clip_cases.py), ``shuffled`` with their
    frames in random order. ``edge``: voxels of a phantom's or a clip's edge. ``body_site``: which part of the body
    phantoms are; OpenKBP's patients are head and neck.

    OpenKBP's ``root`` is a clone of the challenge's repository, which is converted once into ``cache`` (None: a folder
    of the run), or the npz form that such a conversion writes. ``hospitals``: those of the run, by name; none: all.
    """

    kind: str
    root: Path | None = None
    cache: Path | None = None
    train_per_site: int = 0
    validation_per_site: int = 0
    sites: int = 4
    patients: int = 12
    body_site: str = HEAD_NECK
    edge: int = 32
    shuffled: bool = False
    hospitals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("openkbp", "phantom", "clips"):
            raise InputError(f"data.kind={self.kind!r}: expected openkbp, phantom or clips")
        if not isinstance(self.shuffled, bool):
            raise InputError(f"data.shuffled={self.shuffled!r}: expected true or false")
        converted = self.root is not None and (self.root / "splits.json").is_file()
        if self.kind == "openkbp" and not converted and not self.is_clone:
            raise InputError(
                f"data.root={self.root}: expected a clone of OpenKBP's repository (with {CLONE_FOLDER}/) or what"
                " `simulate convert` wrote (with splits.json and half64/)"
            )
        if self.body_site not in PHANTOM_SITES:
            raise InputError(f"data.body_site={self.body_site!r}: expected one of {', '.join(PHANTOM_SITES)}")
        check_range("data.sites", self.sites, 1, 64)
        check_range("data.patients", self.patients, 2, 10_000)
        check_range("data.edge", self.edge, 16, 128)
        check_range("data.train_per_site", self.train_per_site, 0, 10_000)
        check_range("data.validation_per_site", self.validation_per_site, 0, 10_000)

    def check_body_site(self, model: str) -> None:
        """InputError unless these are patients of the body site whose organs the model takes."""
        if self.body_site != model:
            expected = f"expected model.body_site={model}, whose organs the model takes; another needs the pyramid"
            raise InputError(f"data.body_site={self.body_site}: {expected}")

    @property
    def is_clone(self) -> bool:
        """Whether ``root`` is OpenKBP as it is downloaded."""
        return self.root is not None and (self.root / CLONE_FOLDER).is_dir()


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """``simulate run``: what to compare, on which data, with which federation (``federation`` is the server's own).

    ``everyone``: a round needs all of the federation's sites. ``regions``: how many sum for the coordinator; 0: none.
    """

    out: Path
    study: tuple[str, ...]
    partition: str
    engine: str
    address: str | None
    workers: int
    threads: int
    device: str
    regions: int
    data: DataSettings
    prior_path: Path | None
    federation: RunConfig
    everyone: bool
    spec: ModelSpec
    resolved: str = field(repr=False)

    def __post_init__(self) -> None:
        unknown = [s for s in self.study if s not in STUDIES]
        if unknown or not self.study or len(set(self.study)) != len(self.study):
            raise InputError(f"study={list(self.study)}: expected some of {', '.join(STUDIES)}, each once")
        if self.engine not in ("local", "processes", "ray"):
            raise InputError(f"engine={self.engine!r}: expected local, processes or ray")
        if self.federation.privacy.mode in SUMMED and self.study != ("federated",):
            raise InputError(
                f"privacy.mode={self.federation.privacy.mode}: needs sites that share; expected study=[federated], or"
                " privacy.mode=none"
            )
        if self.federation.privacy.mode in SUMMED and self.engine == "ray":
            raise InputError(
                f"engine=ray: with privacy.mode={self.federation.privacy.mode} a site keeps keys from one message to"
                " the next, which Ray's workers do not; expected engine=local"
            )
        self.data.check_body_site(self.spec.body_site)
        check_range("workers", self.workers, 1, 256)
        check_range("threads", self.threads, 1, 256)
        check_device(self.device)
        check_range("regions", self.regions, 0, 10_000)
        if self.regions and (self.federation.privacy.mode != "none" or self.engine == "ray"):
            raise InputError(
                f"regions={self.regions}: regions send means without privacy, in threads or processes; expected"
                f" privacy.mode=none and engine=local or processes, not {self.federation.privacy.mode}, {self.engine}"
            )
        if self.engine != "local" and self.threads != 1:
            raise InputError(
                f"engine={self.engine}: its workers have one thread each; expected threads=1, not {self.threads}"
            )
        if self.engine == "processes" and self.device != "cpu":
            raise InputError(
                f"engine=processes: forked processes share no accelerator; expected device=cpu, not {self.device}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """``simulate evaluate``: one adapter on one cohort."""

    adapter: str
    split: str
    targets: str
    part: str
    out: Path
    seed: int
    threads: int
    device: str
    sampler_steps: int
    candidates: int
    flips: bool
    without: tuple[str, ...]
    data: DataSettings
    prior_path: Path | None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"split={self.split!r}: expected one of {', '.join(SPLITS)}")
        check_range("seed", self.seed, 0, 2**63 - 1)
        if any(name not in WITHHELD for name in self.without):
            raise InputError(f"without={list(self.without)}: expected some of {', '.join(WITHHELD)}")
        if not isinstance(self.flips, bool):
            raise InputError(f"flips={self.flips!r}: expected true or false")
        if self.targets not in ("dose", "all"):
            raise InputError(f"targets={self.targets!r}: expected dose or all")
        if self.part not in ("whole", "base"):
            raise InputError(f"part={self.part!r}: expected whole or base")
        check_range("evaluate.sampler_steps", self.sampler_steps, 1, 1000)
        check_range("evaluate.candidates", self.candidates, 1, 64)
        check_range("threads", self.threads, 0, 256)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class BaselinesSettings:
    """``simulate baselines``: methods to train on the training patients and to score on those of ``split``."""

    methods: tuple[str, ...]
    split: str
    out: Path
    seed: int
    threads: int
    unet_cpu_s: int
    ridge_fourier: int
    voxel_steps: int
    data: DataSettings

    def __post_init__(self) -> None:
        unknown = [m for m in self.methods if m not in BASELINES]
        if unknown or not self.methods or len(set(self.methods)) != len(self.methods):
            raise InputError(f"methods={list(self.methods)}: expected some of {', '.join(BASELINES)}, each once")
        if self.split not in ("validation", "test"):
            raise InputError(f"split={self.split!r}: expected validation or test")
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("threads", self.threads, 1, 256)
        check_range("unet_cpu_s", self.unet_cpu_s, 1, 1_000_000)
        check_range("ridge_fourier", self.ridge_fourier, 0, 2500)
        check_range("voxel_steps", self.voxel_steps, 1, 1_000_000)


def data_settings(raw: dict[str, Any]) -> DataSettings:
    """The key ``data`` of a composed configuration."""
    values = dict(mapping(raw, "data"))
    root, cache = (optional_path(values.pop(key, None), f"data.{key}") for key in ("root", "cache"))
    names = values.pop("hospitals", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"data.hospitals={names!r}: expected a list of hospitals' names")
    return DataSettings(root=root, cache=cache, hospitals=tuple(names), **values)


def run_configuration(overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """``simulate run``'s values and their YAML, before the checks; InputError for an unknown key."""
    refuse_old_keys(overrides)
    return compose_values("run", overrides)


def run_settings(overrides: Sequence[str]) -> RunSettings:
    """Compose and check ``simulate run``'s settings."""
    raw, resolved = run_configuration(overrides)
    study = raw["study"]
    return RunSettings(
        out=path(raw["out"], "out"),
        study=tuple(study) if isinstance(study, list) else (str(study),),
        partition=raw["partition"],
        engine=raw["engine"],
        address=ray_address(raw["address"], raw["engine"]),
        workers=raw["workers"],
        threads=raw["threads"],
        device=raw["device"],
        regions=raw["regions"],
        data=data_settings(raw),
        prior_path=optional_path(mapping(raw, "prior")["path"], "prior.path"),
        federation=_federation(raw),
        everyone=not raw["rounds"]["min_sites"] and raw["privacy"]["mode"] in SUMMED,
        spec=ModelSpec.from_json(json.dumps(raw["model"])),
        resolved=resolved,
    )


def _federation(raw: dict[str, Any]) -> RunConfig:
    """The run configuration of the keys that `server run` has too."""
    values = {field.name: raw[field.name] for field in fields(RunConfig)}
    rounds, privacy = dict(raw["rounds"]), dict(raw["privacy"])
    rounds["min_sites"] = rounds["min_sites"] or 2
    for key in ("cohort", "sites"):
        if privacy[key]:
            raise InputError(f"privacy.{key}={privacy[key]}: expected 0; `simulate run` counts those of its partition")
        privacy[key] = 1  # a placeholder, until simulations/studies/study.py counts them
    rounds["public_cases"] = _whole_path(rounds["public_cases"], "rounds.public_cases")
    values |= {"rounds": rounds, "privacy": privacy, "initial": _whole_path(raw["initial"], "initial")}
    return RunConfig.from_json(json.dumps(values))


def _whole_path(name: str, key: str) -> str:
    return str(path(name, key).resolve()) if name else ""


def evaluate_settings(overrides: Sequence[str]) -> EvaluateSettings:
    """Compose and check ``simulate evaluate``'s settings."""
    refuse_old_keys(overrides, {key: f"evaluate.{key}" for key in ("sampler_steps", "candidates")})
    raw, _ = compose_values("evaluate", overrides)
    adapter = str(path(raw["adapter"], "adapter"))
    prior_path = optional_path(mapping(raw, "prior")["path"], "prior.path")
    rest = {key: value for key, value in raw.items() if key not in ("prior", "evaluate")}
    rest |= mapping(raw, "evaluate")
    return EvaluateSettings(
        **{
            **rest,
            "adapter": adapter,
            "out": path(raw["out"], "out"),
            "data": data_settings(raw),
            "prior_path": prior_path,
            "without": several(raw, "without"),
        }
    )


def baselines_settings(overrides: Sequence[str]) -> BaselinesSettings:
    """Compose and check ``simulate baselines``'s settings."""
    refuse_old_keys(overrides, dict.fromkeys(("base_fourier", "model.base_fourier"), "ridge_fourier"))
    raw, _ = compose_values("baselines", overrides)
    methods = raw["methods"]
    raw["methods"] = tuple(methods) if isinstance(methods, list) else (str(methods),)
    return BaselinesSettings(**{**raw, "out": path(raw["out"], "out"), "data": data_settings(raw)})
