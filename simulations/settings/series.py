"""Settings of the commands that train many runs: `simulate ablation`, `simulate transfer` and `simulate poison`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_model.core.errors import InputError
from shared_model.network.spec import PRIORS_OF
from simulations.settings.commands import CLONE_FOLDER
from simulations.settings.composition import check_number, check_range, compose_values, optional_path, path, several


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """``simulate ablation``: which list, variants and seeds; ``common`` are the overrides that every variant's run
    gets. ``study``: centralised or federated; empty: the list's own. ``jobs``: trials side by side."""

    list: str
    out: Path
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    steps: tuple[int, ...]
    study: str
    jobs: int
    common: tuple[str, ...]

    def __post_init__(self) -> None:
        for key, values, low, high in (("seeds", self.seeds, 0, 2**31), ("steps", self.steps, 1, 1000)):
            for value in values:
                check_range(key, value, low, high)
            _each_once(key, values)
        check_range("jobs", self.jobs, 1, 256)
        if self.study not in ("", "centralised", "federated"):
            raise InputError(f"study={self.study!r}: expected centralised or federated")


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """``simulate transfer``: priors, budgets and seeds; ``common`` are the overrides that every trial's run gets."""

    out: Path
    seeds: tuple[int, ...]
    priors: tuple[str, ...]
    steps: tuple[int, ...]
    equal_compute: bool
    common: tuple[str, ...]

    def __post_init__(self) -> None:
        for key, values, low, high in (("seeds", self.seeds, 0, 2**31), ("steps", self.steps, 10, 1_000_000)):
            for value in values:
                check_range(key, value, low, high)
        for key in ("seeds", "steps", "priors"):
            _each_once(key, getattr(self, key))
        if not isinstance(self.equal_compute, bool):
            raise InputError(f"equal_compute={self.equal_compute!r}: expected true or false")
        for prior in self.priors:
            known = [p for p in PRIORS_OF["transformer"] if p != "wan"]
            if prior not in known:
                raise InputError(f"priors: {prior!r}: expected some of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class PoisonSettings:
    """``simulate poison``: how a site lies and which one; ``common`` are the overrides that every trial's run gets."""

    out: Path
    seeds: tuple[int, ...]
    factors: tuple[float, ...]
    liar: int
    public: Path | None
    common: tuple[str, ...]

    def __post_init__(self) -> None:
        check_range("liar", self.liar, 0, 1000)
        for seed in self.seeds:
            check_range("seeds", seed, 0, 2**31)
        for factor in self.factors:
            check_number("factors", factor, -1000.0, 1000.0)
        _each_once("seeds", self.seeds)
        _each_once("factors", self.factors)


def trial_overrides(out: Path, common: Sequence[str]) -> list[str]:
    """Overrides at the start of each trial's run, so that data are made or converted only once for all trials."""
    roots = [Path(o.removeprefix("data.root=")).expanduser() for o in common if o.startswith("data.root=")]
    if any((root / CLONE_FOLDER).is_dir() for root in roots):
        return [f"data.cache={out / 'data'}", *common]
    elsewhere = bool(roots) or any(o.startswith("data=openkbp") for o in common)
    return [*([] if elsewhere else [f"data.root={out / 'data'}"]), *common]


def _each_once(key: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) != len(values):
        raise InputError(f"{key}={list(values)}: expected at least one, each once")


def ablation_settings(overrides: Sequence[str]) -> AblationSettings:
    """Split the overrides into ``simulate ablation``'s own and those of every variant's run."""
    raw, common = _own_and_common("ablation", overrides, ("list", "out", "seeds", "variants", "steps", "study", "jobs"))
    lists = _lists(raw, ("seeds", "variants", "steps"))
    return AblationSettings(
        list=str(raw["list"]),
        out=path(raw["out"], "out"),
        study=raw["study"],
        jobs=raw["jobs"],
        common=common,
        **lists,
    )


def transfer_settings(overrides: Sequence[str]) -> TransferSettings:
    """Split the overrides into ``simulate transfer``'s own and those of every trial's run."""
    raw, common = _own_and_common("transfer", overrides, ("out", "seeds", "priors", "steps", "equal_compute"))
    lists = _lists(raw, ("seeds", "priors", "steps"))
    return TransferSettings(out=path(raw["out"], "out"), equal_compute=raw["equal_compute"], common=common, **lists)


def poison_settings(overrides: Sequence[str]) -> PoisonSettings:
    """Split the overrides into ``simulate poison``'s own and those of every trial's run."""
    raw, common = _own_and_common("poison", overrides, ("out", "seeds", "factors", "liar", "public"))
    return PoisonSettings(
        out=path(raw["out"], "out"),
        liar=raw["liar"],
        public=optional_path(raw["public"], "public"),
        common=common,
        **_lists(raw, ("seeds", "factors")),
    )


def _own_and_common(
    name: str, overrides: Sequence[str], keys: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    own = [o for o in overrides if o.split("=", 1)[0] in keys]
    return compose_values(name, own)[0], tuple(o for o in overrides if o not in own)


def _lists(raw: dict[str, Any], keys: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    return {key: several(raw, key) for key in keys}
