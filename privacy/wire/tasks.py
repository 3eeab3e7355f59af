"""What the coordinator may ask a site to do: one round of training, one evaluation, or noised counts of its patients.

The schema fixes the ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

from privacy.dp.terms import NOISE_SHARED, PrivacyTerms
from privacy.secagg.exact_sums import MaskTerms
from shared_model.core.fields import MessageError, OneOf, Real, Rule, Text, Whole, check_fields

_SEED = Whole(0, 2**63 - 1)
_TERMS = Text(r"(\{[\x20-\x7e]*\})?", 2000, "terms in JSON or nothing")
# How a site corrects its steps.
CONTROLS = ("none", "scaffold")
# Starts of tensors' names, which are those of the network's modules.
PERSONAL = Text(
    r"([a-z][A-Za-z0-9_.]*(,[a-z][A-Za-z0-9_.]*)*)?", 400, "starts of tensors' names, as in a,b, or nothing"
)
# What a site may report of training, and of scoring. Under masks they travel in this order, and no others do.
METRICS = ("loss", "seconds", "dose_score_gy", "dvh_score_gy", "mae_ref5_gy", "mae_gdp_gy", "patients")


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """One round of local training. ``lr`` is this round's; randomness is keyed by (seed, site, round, patient).

    ``grad_clip`` is the largest global gradient norm. ``least_visible``: in stage "any2any", the least probability that
    a condition is visible (the curriculum). ``privacy``: the terms of the run's noise in JSON, empty in modes masked
    and none. ``masks``: the terms of its exact sums, in modes local and masked. In mode shared
    ``local_steps`` are steps on each patient alone, and a round is one release. ``proximal``: the factor of the pull
    back to the shared vector (FedProx), half of it times the squared distance. ``control``: "scaffold" corrects each
    step by what all sites did (client/training/scaffold.py). ``personal``: starts of the names of tensors that stay at
    the site (client/training/own_heads.py). Raises MessageError ("bad_task").
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
    masks: str = ""
    proximal: float = 0.0
    control: str = "none"
    personal: str = ""

    # Fields that sites of an older version do not know, and what leaves them as they were.
    LATER: ClassVar[Mapping[str, float | str]] = {"proximal": 0.0, "control": "none", "personal": ""}
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
        "privacy": _TERMS,
        "masks": _TERMS,
        "proximal": Real(0.0, 1e6),
        "control": OneOf(CONTROLS),
        "personal": PERSONAL,
    }

    def __post_init__(self) -> None:
        check_fields(self, "train task", self.RULES)
        if self.round > self.rounds:
            raise MessageError("bad_task", "train task: round must not be above rounds")
        terms, exact = self.terms, self.mask_terms
        if terms is not None and (exact is None) != (terms.mode in NOISE_SHARED):
            raise MessageError("bad_task", "train task: mode local, and no other with noise, has terms of exact sums")
        if terms is not None and terms.mode == "shared" and self.local_steps != terms.local_steps:
            raise MessageError("bad_task", "train task: local_steps must be those of the terms in mode shared")
        if terms is not None and (self.control != "none" or self.personal):
            raise MessageError("bad_task", "train task: what a site keeps between rounds does not go with noise")

    @property
    def terms(self) -> PrivacyTerms | None:
        """The terms of the noise; None in modes masked and none."""
        return _terms(self.privacy)

    @property
    def mask_terms(self) -> MaskTerms | None:
        """The terms of exact sums; None where noise is drawn in the ring, and in mode none."""
        return _mask_terms(self.masks)

    @property
    def mode(self) -> str:
        """The privacy mode."""
        if self.terms is not None:
            return self.terms.mode
        return "masked" if self.masks else "none"

    @property
    def means(self) -> tuple[str, ...]:
        """Means that an exact sum carries: none beside noise, since each would be a release that nobody pays for."""
        return () if self.privacy else METRICS

    @property
    def releases(self) -> int:
        """How many noisy steps one round has. Each step is charged."""
        return self.local_steps if self.terms is not None and self.terms.mode == "local" else 1


@dataclass(frozen=True, kw_only=True)
class EvaluateTask:
    """Score the shared vector on the site's own patients after ``round`` rounds. Raises MessageError ("bad_task").

    ``masks``: terms of the exact sum that the scores go into, empty in mode none. ``tune_steps``: steps on the site's
    own training patients before it scores, of ``tune_batch`` patients at the rate ``tune_lr``; what they change is
    scored and forgotten. ``personal``: the tensors that the site takes from its own heads, as in training.
    """

    round: int
    split: str = "validation"
    sampler_steps: int = 20
    candidates: int = 1
    seed: int = 0
    masks: str = ""
    tune_steps: int = 0
    tune_lr: float = 1e-4
    tune_batch: int = 4
    personal: str = ""

    LATER: ClassVar[Mapping[str, float | str]] = {"tune_steps": 0, "tune_lr": 1e-4, "tune_batch": 4, "personal": ""}
    RULES: ClassVar[Mapping[str, Rule]] = {
        "round": Whole(0, 1_000_000),
        "split": OneOf(("validation",)),
        "sampler_steps": Whole(1, 1000),
        "candidates": Whole(1, 64),
        "seed": _SEED,
        "masks": _TERMS,
        "tune_steps": Whole(0, 1_000_000),
        "tune_lr": Real(0.0, 10.0, above=True),
        "tune_batch": Whole(1, 4096),
        "personal": PERSONAL,
    }

    def __post_init__(self) -> None:
        check_fields(self, "evaluate task", self.RULES)
        _mask_terms(self.masks)

    @property
    def mask_terms(self) -> MaskTerms | None:
        """The terms of exact sums; None in mode none."""
        return _mask_terms(self.masks)

    @property
    def mode(self) -> str:
        """The privacy mode."""
        return "masked" if self.masks else "none"

    @property
    def means(self) -> tuple[str, ...]:
        """Means that the sum carries."""
        return METRICS

    @property
    def tuning(self) -> TrainTask | None:
        """The training before the score, if any."""
        if not self.tune_steps:
            return None
        number = max(1, self.round)
        return TrainTask(
            round=number,
            rounds=number,
            local_steps=self.tune_steps,
            batch_size=self.tune_batch,
            lr=self.tune_lr,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class StatisticsTask:
    """Noised counts of a site's training patients, once, before the first round. Raises MessageError ("bad_task").

    ``size``: how many counts; ``layout``: hash of what each of them counts, which the site must count too. ``privacy``:
    the terms of the noise in JSON: mode shared, one release, of everybody.
    """

    size: int
    layout: str
    privacy: str
    round: int = 0

    LATER: ClassVar[Mapping[str, float | str]] = {}
    RULES: ClassVar[Mapping[str, Rule]] = {
        "size": Whole(1, 100_000),
        "layout": Text(r"[0-9a-f]{64}", 64, "the layout's SHA-256 in hex"),
        "privacy": _TERMS,
        "round": Whole(0, 0),
    }
    mode: ClassVar[str] = "shared"
    # As if it were a whole run: no sum without noise, no means, one release, and no round after it.
    mask_terms: ClassVar[None] = None
    means: ClassVar[tuple[str, ...]] = ()
    releases: ClassVar[int] = 1
    rounds: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_fields(self, "statistics task", self.RULES)
        terms = self.terms
        if terms is None or (terms.mode, terms.q, terms.steps, terms.local_steps) != ("shared", 1.0, 1, 1):
            raise MessageError("bad_task", "statistics task: expected terms of mode shared, for one release of all")

    @property
    def terms(self) -> PrivacyTerms | None:
        """The terms of the noise; they are always there."""
        return _terms(self.privacy)


@lru_cache(maxsize=8)
def _terms(text: str) -> PrivacyTerms | None:
    return PrivacyTerms.from_json(text)


@lru_cache(maxsize=8)
def _mask_terms(text: str) -> MaskTerms | None:
    return MaskTerms.from_json(text)


Task = TrainTask | EvaluateTask | StatisticsTask


def sent_fields(task: Task) -> dict[str, Any]:
    """A task's fields as they are sent and hashed: without later ones that are as if they were not there, so that
    sites of an older version answer too."""
    return {
        field.name: getattr(task, field.name)
        for field in fields(task)
        if task.LATER.get(field.name) != getattr(task, field.name)
    }


TASKS: Mapping[str, type[Task]] = {"train": TrainTask, "evaluate": EvaluateTask, "statistics": StatisticsTask}
# Whose tasks come with the shared vector.
WITH_VECTOR = ("train", "evaluate")
