"""Settings of `simulate pretrain`: what a prior is trained on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_model.core.errors import InputError
from simulations.settings.composition import check_number, check_range, compose_values, path

PRETRAINING: tuple[str, ...] = ("video", "video-shuffled", "phantom")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """``simulate pretrain``: a prior of the bundled size, on procedural video or phantom patients."""

    seed: int
    out: Path
    source: str
    examples: int
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
            ("examples", 1, 100_000),
            ("workers", 1, 256),
            ("threads", 1, 256),
            ("steps", 1, 10_000_000),
            ("batch_size", 1, 4096),
            ("log_every", 1, 10_000_000),
        ):
            check_range(key, getattr(self, key), low, high)
        for key, least, most in (
            ("lr", 1e-12, 10.0),
            ("lr_final_fraction", 0.0, 1.0),
            ("dose_share", 0.0, 1.0),
            ("grad_clip", 1e-12, 1e6),
            ("weight_decay", 0.0, 1.0),
        ):
            check_number(key, getattr(self, key), least, most)
        if self.source not in PRETRAINING:
            raise InputError(f"source={self.source!r}: expected one of {', '.join(PRETRAINING)}")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"out={self.out}: is no folder; the prior and its card are written to a folder")


def pretrain_settings(overrides: Sequence[str]) -> PretrainSettings:
    """Compose and check ``simulate pretrain``'s settings."""
    raw, _ = compose_values("pretrain", overrides)
    return PretrainSettings(**{**raw, "out": path(raw["out"], "out")})
