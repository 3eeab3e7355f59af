"""Settings of `simulate convert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_model.core.errors import InputError
from simulations.settings.commands import CLONE_FOLDER, DataSettings, data_settings
from simulations.settings.composition import compose_values, path


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """``simulate convert``: the clone at ``data.root`` into the folder ``out``."""

    data: DataSettings
    out: Path

    def __post_init__(self) -> None:
        if not self.data.is_clone:
            raise InputError(f"data.root={self.data.root}: expected a clone of OpenKBP's repository ({CLONE_FOLDER}/)")
        if self.data.cache is not None:
            raise InputError(f"data.cache={self.data.cache}: expected null; `simulate convert` writes to out")


def convert_settings(overrides: Sequence[str]) -> ConvertSettings:
    """Compose and check ``simulate convert``'s settings."""
    raw, _ = compose_values("convert", overrides)
    return ConvertSettings(data=data_settings(raw), out=path(raw["out"], "out"))
