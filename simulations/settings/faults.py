"""Settings of `simulate faults`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_model.core.errors import InputError
from simulations.settings.composition import check_number, check_range, compose_values, path


@dataclass(frozen=True, kw_only=True)
class FaultsSettings:
    """``simulate faults``: the seed of what fails where, the federation's size, and which rows (empty: all)."""

    out: Path
    seed: int
    sites: int
    rounds: int
    size: int
    deadline_s: float
    faults: tuple[str, ...]

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("sites", self.sites, 3, 100)
        check_range("rounds", self.rounds, 2, 1000)
        check_range("size", self.size, 2, 10_000_000)
        check_number("deadline_s", self.deadline_s, 0.1, 3600.0)


def faults_settings(overrides: Sequence[str]) -> FaultsSettings:
    """Compose and check ``simulate faults``'s settings."""
    raw, _ = compose_values("faults", overrides)
    if not isinstance(raw["faults"], list):
        raise InputError(f"faults={raw['faults']!r}: expected a list of rows, as in faults=[crash,cut]")
    return FaultsSettings(
        **{**raw, "out": path(raw["out"], "out"), "faults": tuple(str(name) for name in raw["faults"])}
    )
