"""What the coordinator may ask a site to do: one round of training, or one evaluation. The schema fixes the ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from privacy.dp.terms import PrivacyTerms
from shared_model.core.fields import MessageError, OneOf, Real, Rule, Text, Whole, check_fields

_SEED = Whole(0, 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """One round of local training. ``lr`` is this round's; randomness is keyed by (seed, site, round, patient).

    ``grad_clip`` is the largest global gradient norm. ``least_visible``: in stage "any2any", the least probability that
    a condition is visible (the curriculum). ``privacy``: the run's terms in JSON, empty for mode none. In mode shared a
    round is one step. Raises MessageError ("bad_task").
    """

    round: int
    rounds: int
    local_steps: int
    batch_size: int
    lr: float
    seed: int
    stage: str = "dose"
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    least_visible: float = 0.0
    privacy: str = ""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "round": Whole(1, 1_000_000),
        "rounds": Whole(1, 1_000_000),
        "local_steps": Whole(1, 1_000_000),
        "batch_size": Whole(1, 4096),
        "lr": Real(0.0, 10.0, above=True),
        "seed": _SEED,
        "stage": OneOf(("base", "dose", "any2any")),
        "grad_clip": Real(0.0, 1e6, above=True),
        "weight_decay": Real(0.0, 1.0),
        "least_visible": Real(0.0, 1.0),
        "privacy": Text(r"(\{[\x20-\x7e]*\})?", 2000, "terms in JSON or nothing"),
    }

    def __post_init__(self) -> None:
        check_fields(self, "train task", self.RULES)
        if self.round > self.rounds:
            raise MessageError("bad_task", "train task: round must not be above rounds")
        terms = self.terms
        if terms is not None and terms.mode == "shared" and self.local_steps != 1:
            raise MessageError(
                "bad_task", "train task: local_steps must be 1 in mode shared, where a round is one step"
            )

    @property
    def terms(self) -> PrivacyTerms | None:
        """The privacy terms; None in mode none."""
        return _terms(self.privacy)

    @property
    def releases(self) -> int:
        """How many noisy steps one round has. Each step is charged."""
        return self.local_steps if self.terms is not None and self.terms.mode == "local" else 1


@dataclass(frozen=True, kw_only=True)
class EvaluateTask:
    """Score the shared vector on the site's own patients after ``round`` rounds. Raises MessageError ("bad_task")."""

    round: int
    split: str = "validation"
    sampler_steps: int = 20
    candidates: int = 1
    seed: int = 0

    RULES: ClassVar[Mapping[str, Rule]] = {
        "round": Whole(0, 1_000_000),
        "split": OneOf(("validation",)),
        "sampler_steps": Whole(1, 1000),
        "candidates": Whole(1, 64),
        "seed": _SEED,
    }

    def __post_init__(self) -> None:
        check_fields(self, "evaluate task", self.RULES)


@lru_cache(maxsize=8)
def _terms(text: str) -> PrivacyTerms | None:
    return PrivacyTerms.from_json(text)


Task = TrainTask | EvaluateTask
TASKS: Mapping[str, type[TrainTask] | type[EvaluateTask]] = {"train": TrainTask, "evaluate": EvaluateTask}
