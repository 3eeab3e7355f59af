"""How the network is trained: every number of the recipe, and what a step draws from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared_model.core.errors import InputError
from shared_model.patient.case import CONDITIONS, MODALITIES
from shared_model.training.views import View


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Defaults as measured on OpenKBP's training patients at 64^3 (docs/results).

    Optimiser: AdamW; the rate warms up over ``warmup`` steps, then falls as (1 + samples / rate_half)^-1/2, so that a
    run can be prolonged, and to zero over the last ``decay`` samples before ``finish`` (0: not yet). A step takes
    ``patients`` patients. ``ema_power``: weights are averaged by 1 - (1 - 1/step)^(power + 1), which always spans the
    same share of the run (Karras et al. 2024, arXiv:2312.02696).

    Draws: ``any_share`` of samples ask for any modality from any subset; of the others ``whole_share`` see every
    condition and the rest lose some, each with its share of ``dropped``. ``shift`` of the noise times. Views:
    ``plain_share`` of samples are mirrored at most; ``turn_share`` of the others are turned by a multiple of 40
    degrees; all of the others by ``small_deg`` (sd), with grids finer or coarser by ``spacing_sd``, shifted, and of
    large bodies a window alone. ``least_visible``: of samples that ask for any modality, the least share of conditions
    that are seen.
    """

    seed: int = 0
    lr: float = 8e-4
    warmup: int = 200
    rate_half: float = 30_000.0
    finish: int = 0
    decay: int = 0
    weight_decay: float = 0.05
    clip: float = 1.0
    patients: int = 2
    ema_power: float = 6.94
    shift: float = 6.0
    dvh_weight: float = 0.1
    noisy_weight: float = 1.0
    any_share: float = 0.12
    least_visible: float = 0.0
    whole_share: float = 0.6
    dropped: tuple[tuple[str, float], ...] = (
        ("ct", 0.35), ("ptv", 0.05), ("oar", 0.15), ("body", 0.05), ("beam", 0.3), ("angle", 0.3),
    )  # fmt: skip
    plain_share: float = 0.3
    turn_share: float = 0.2
    small_deg: float = 5.0
    spacing_sd: float = 0.05

    def __post_init__(self) -> None:
        for key in ("any_share", "least_visible", "whole_share", "plain_share", "turn_share"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise InputError(f"{key}={getattr(self, key)}: expected 0 to 1")
        for name, share in self.dropped:
            if name not in CONDITIONS or not 0.0 <= share <= 1.0:
                raise InputError(f"dropped: {name}={share}: expected a condition and 0 to 1")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        samples = step * self.patients
        rate = self.lr * min(1.0, (step + 1) / self.warmup) * (1 + samples / self.rate_half) ** -0.5
        if self.finish and self.decay:
            rate *= min(1.0, max(0.0, (self.finish - samples) / self.decay))
        return float(rate)

    def ema_kept(self, step: int) -> float:
        """How much of the average stays at a step, counted from 0."""
        return float((1 - 1 / (step + 2)) ** (self.ema_power + 1))


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One sample's question: ``target`` from ``conditions``, seen in ``view``."""

    target: str
    conditions: tuple[str, ...]
    view: View


def ask(recipe: Recipe, present: tuple[str, ...], generator: torch.Generator) -> Ask:
    """Draw a question for a patient who has the modalities ``present``."""

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    view = _view(recipe, generator)
    if "dose" not in present or chance() < recipe.any_share:
        there = [m for m in MODALITIES if m in present]
        target = there[int(chance() * len(there))]
        visible = recipe.least_visible + (1.0 - recipe.least_visible) * chance()
        kept = tuple(m for m in CONDITIONS if m in present and m != target and chance() < visible)
        return Ask(target=target, conditions=kept, view=view)
    conditions = tuple(m for m in CONDITIONS if m in present)
    if chance() >= recipe.whole_share:
        lost = dict(recipe.dropped)
        conditions = tuple(m for m in conditions if chance() >= lost.get(m, 0.0))
    return Ask(target="dose", conditions=conditions, view=view)


def _view(recipe: Recipe, generator: torch.Generator) -> View:
    chances = torch.rand(4, generator=generator).tolist()
    mirrored = chances[0] < 0.5
    if chances[1] < recipe.plain_share:
        return View(mirrored=mirrored)
    turn = 40.0 * int(9 * chances[3]) if chances[2] < recipe.turn_share else 0.0
    normal = torch.randn(3, generator=generator).clamp(-2.5, 2.5).tolist()
    shift = (torch.rand(3, generator=generator) - 0.5).tolist()
    window = torch.rand(3, generator=generator).tolist()
    return View(
        mirrored=mirrored,
        turn_deg=turn + recipe.small_deg * normal[0],
        spacing=(float(2.0 ** (recipe.spacing_sd * normal[1])), float(2.0 ** (recipe.spacing_sd * normal[2]))),
        shift=(shift[0], shift[1], shift[2]),
        window=(window[0], window[1], window[2]),
    )
