"""Settings of `simulate scorecards`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.adapters.settings import AlignSettings
from shared_model.bundled import SCORECARDS, TRADEOFF
from shared_model.core.errors import InputError
from shared_model.tradeoff.steer import Steering
from simulations.settings.commands import DataSettings, data_settings
from simulations.settings.composition import check_range, compose_values, mapping, path, several


@dataclass(frozen=True, kw_only=True)
class ScorecardsSettings:
    """``cards``: one file for each hospital of ``partition``, in its order. ``align``: as `client align --set`.

    ``choose``: the number of each hospital's last training patients who choose the epoch and do not train. So the
    patients who are scored have no part in that choice. ``unseen``: cards that no hospital aligns to. ``aligning``:
    whether hospitals align at all. ``tradeoffs``: files that `simulate tradeoff` wrote, one for each seed in turn.
    ``scored``: first and end of the official validation patients who are scored; those before chose settings.
    """

    out: Path
    adapter: str
    seeds: tuple[int, ...]
    cards: tuple[Path, ...]
    unseen: tuple[Path, ...]
    tradeoffs: tuple[Path, ...]
    scored: tuple[int, int]
    aligning: bool
    steering: Steering
    partition: str
    best_of: int
    choose: int
    data: DataSettings
    align: AlignSettings

    def __post_init__(self) -> None:
        for seed in self.seeds:
            check_range("seeds", seed, 0, 2**31)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds={list(self.seeds)}: expected at least one, each once")
        check_range("best_of", self.best_of, 3, 64)  # the first is the shared dose, and one other has no spread
        if len(self.scored) != 2:
            raise InputError(f"scored={list(self.scored)}: expected [first, end)")
        check_range("scored", self.scored[0], 0, 10_000)
        check_range("scored", self.scored[1], self.scored[0] + 1, 10_000)
        for file in self.tradeoffs:
            if not file.is_file():
                raise InputError(f"tradeoffs: {file}: no such file; expected one of `simulate tradeoff`, or default")
        if not self.tradeoffs or not isinstance(self.aligning, bool):
            raise InputError("expected at least one file under tradeoffs, and aligning=true or false")
        check_range("choose", self.choose, 1, 1000)


def scorecards_settings(overrides: Sequence[str]) -> ScorecardsSettings:
    """Compose and check ``simulate scorecards``'s settings.

    A card without a folder in its name is looked for in data.root/scorecards, then among the bundled ones.
    """
    raw, _ = compose_values("scorecards", overrides)
    settings = data_settings(raw)
    return ScorecardsSettings(
        out=path(raw["out"], "out"),
        adapter=str(path(raw["adapter"], "adapter")),
        seeds=several(raw, "seeds"),
        cards=tuple(_card(str(card), settings.root) for card in several(raw, "cards")),
        unseen=tuple(_card(str(card), settings.root) for card in several(raw, "unseen")),
        tradeoffs=tuple(TRADEOFF if one == "default" else path(one, "tradeoffs") for one in several(raw, "tradeoffs")),
        scored=several(raw, "scored"),
        aligning=raw["aligning"],
        steering=Steering(**mapping(raw, "steering")),
        partition=raw["partition"],
        best_of=raw["best_of"],
        choose=raw["choose"],
        data=settings,
        align=AlignSettings(**mapping(raw, "align")),
    )


def _card(name: str, root: Path | None) -> Path:
    ours = SCORECARDS
    folders = [ours] if root is None else [root / "scorecards", ours]
    for found in (folder / f"{name}.yaml" for folder in folders):
        if found.is_file():
            return found
    return Path(name)
