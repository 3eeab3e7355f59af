"""The groups of a run's configuration: types and limits of every key, checked where they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from privacy.dp.terms import COUNTED, MODES, NOISED
from privacy.wire.tasks import CONTROLS, PERSONAL
from shared_model.core.errors import InputError
from shared_model.core.fields import OneOf, Real, Rule, Text, Whole, check_fields

WHERE = "run configuration"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Local training in a round. ``lr`` falls over the rounds by a half cosine to ``lr * lr_final_fraction``.

    ``stage``: "dose" trains dose prediction (stage B), "any2any" every target from any conditions (stage A).
    ``any2any_share``: the share of the rounds that are stage A. They come first; ``stage`` sets the others.
    ``curriculum``: "rising" raises the number of visible conditions over stage A to all of them, "none" draws any
    number throughout. ``base_rounds``: the number of first rounds that train only the base of
    ``model.base=phantom``. Their learning rate starts at ``base_lr`` and falls on its own. ``grad_clip``: largest
    gradient norm.
    ``proximal``: how strongly a site's weights are drawn back to the shared ones (FedProx); 0: not at all.
    ``control``: "scaffold" corrects each site's steps by what all sites did. ``personal``: starts of the names of
    tensors that stay at the sites (FedPer), as in a,b; empty: none.
    """

    local_steps: int
    batch_size: int
    lr: float
    lr_final_fraction: float
    stage: str
    any2any_share: float
    curriculum: str
    base_rounds: int
    base_lr: float
    grad_clip: float
    weight_decay: float
    proximal: float
    control: str
    personal: str

    RULES: ClassVar[Mapping[str, Rule]] = {
        "local_steps": Whole(1, 1_000_000),
        "batch_size": Whole(1, 4096),
        "lr": Real(0.0, 10.0, above=True),
        "lr_final_fraction": Real(0.0, 1.0, above=True),
        "stage": OneOf(("dose", "any2any")),
        "any2any_share": Real(0.0, 1.0),
        "base_rounds": Whole(0, 1_000_000),
        "base_lr": Real(0.0, 10.0, above=True),
        "curriculum": OneOf(("none", "rising")),
        "grad_clip": Real(0.0, 1e6, above=True),
        "weight_decay": Real(0.0, 1.0),
        "proximal": Real(0.0, 1e6),
        "control": OneOf(CONTROLS),
        "personal": PERSONAL,
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{WHERE}: train", self.RULES)


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """How many rounds there are, how many sites each needs, how long it waits (seconds), and when it is undone.

    A round with fewer than ``min_sites`` accepted updates is repeated, ``attempts`` times in all; then the run stops.
    Before the first round it waits ``wait_for_sites_s`` for its sites, later ``wait_for_return_s``.
    ``evaluate_every`` 0 never evaluates. An update with a Euclidean norm above ``max_update_norm`` drops its site.
    ``keep``: "means" saves what each round of mode none joined, so that the run can be computed again.
    ``buffer``: a round ends with so many updates, and whoever is slower goes into a later one; 0: it waits for all.
    A round is undone if it raises the error on public patients above ``public_step`` times the error before it, or
    above ``public_worst`` times the best so far (server/rounds/public_gate.py; 0: no limit). ``public_cases``: the
    coordinator's file of these patients; empty: the phantoms of the package.
    """

    count: int
    min_sites: int
    deadline_s: float
    wait_for_sites_s: float
    wait_for_return_s: float
    evaluate_every: int
    max_update_norm: float
    attempts: int
    buffer: int
    keep: str
    public_step: float
    public_worst: float
    public_cases: str

    RULES: ClassVar[Mapping[str, Rule]] = {
        "count": Whole(1, 1_000_000),
        "min_sites": Whole(1, 10_000),
        "deadline_s": Real(0.0, 1e7, above=True),
        "wait_for_sites_s": Real(0.0, 1e7, above=True),
        "wait_for_return_s": Real(0.0, 1e7, above=True),
        "evaluate_every": Whole(0, 1_000_000),
        "max_update_norm": Real(0.0, 1e12, above=True),
        "attempts": Whole(1, 1000),
        "buffer": Whole(0, 10_000),
        "keep": OneOf(("nothing", "means")),
        "public_step": Real(0.0, 1000.0),
        "public_worst": Real(0.0, 1000.0),
        "public_cases": Text(r"[^\x00]*", 4096, "the path of a file of cases, or empty"),
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{WHERE}: rounds", self.RULES)
        for key in ("public_step", "public_worst"):
            if 0.0 < getattr(self, key) < 1.0:
                raise InputError(f"{WHERE}: rounds.{key} must be 0 (no limit) or a factor from 1, such as 1.05")

    @property
    def judged(self) -> bool:
        """Whether rounds are judged on public patients."""
        return bool(self.public_step or self.public_worst)


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """How updates are joined (``rule``) and the server's optimiser on what comes of it (server/strategy). ``tau`` and
    ``beta2`` belong to fedadam, ``trim`` to the rule trimmed: the share that is left out at each end.

    In privacy mode shared the mean is a descent direction, and the step is ``lr`` times the round's ``train.lr``.
    ``average``: the share of the last rounds whose vectors are averaged into the adapter; 0: the last vector is it.
    """

    name: str
    lr: float
    beta1: float
    beta2: float
    tau: float
    weighting: str
    average: float
    rule: str
    trim: float

    RULES: ClassVar[Mapping[str, Rule]] = {
        "name": OneOf(("fedavg", "fedavgm", "fedadam")),
        "lr": Real(0.0, 100.0, above=True),
        "beta1": Real(0.0, 0.999999),
        "beta2": Real(0.0, 0.999999),
        "tau": Real(0.0, 1.0, above=True),
        "weighting": OneOf(("patients", "equal")),
        "average": Real(0.0, 1.0),
        "rule": OneOf(("mean", "trimmed", "median", "product")),
        "trim": Real(0.0, 0.5),
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{WHERE}: aggregate", self.RULES)
        if self.rule in ("trimmed", "median") and self.weighting != "equal":
            raise InputError(
                f"{WHERE}: aggregate.rule={self.rule} counts every site alike; give aggregate.weighting=equal with it"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How sites score the shared vector: steps of the sampler and candidates a patient.

    One step from pure noise is the network's mean dose, which has the lowest error (docs/results). ``tune_steps``: each
    site first takes so many steps of rate ``tune_lr`` on its own patients, for the score alone; 0: none.
    """

    sampler_steps: int
    candidates: int
    tune_steps: int
    tune_lr: float

    RULES: ClassVar[Mapping[str, Rule]] = {
        "sampler_steps": Whole(1, 1000),
        "candidates": Whole(1, 64),
        "tune_steps": Whole(0, 1_000_000),
        "tune_lr": Real(0.0, 10.0, above=True),
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{WHERE}: evaluate", self.RULES)


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """The privacy that the coordinator asks for (privacy/dp/terms.py). Every site's own policy may refuse it.

    ``mode`` masked and none must be named explicitly, here and in every site's policy.
    ``epsilon`` at ``delta`` holds for the whole run; ``z`` 0: the least noise that keeps to it. ``q``: the chance that
    a patient takes part in a step. ``clip``: largest norm of a patient's gradient (mode site: of a site's update).
    ``cohort`` and ``sites``: the declared numbers of patients and sites, which are public. A sum needs at least
    ``rounds.min_sites`` sites; ``colluders`` of them may tell the coordinator what they know. ``bits``: size of the
    ring, 0: the smallest that fits. ``views``: random draws that are averaged into one gradient. ``local_lr``: rate of
    the steps on one patient, in mode shared with ``train.local_steps`` above 1. ``hold_s``: seconds; a site's answers
    leave at its multiples, so that their time tells nothing; 0: at once, and q counts as 1. ``statistics``: epsilon of
    noised counts of the patients before the first round, which fill ``trained_on`` of the adapter's card; 0: none.
    Under noise it is part of ``epsilon``.
    """

    mode: str
    epsilon: float
    delta: float
    z: float
    q: float
    clip: float
    cohort: int
    sites: int
    colluders: int
    bits: int
    views: int
    local_lr: float
    hold_s: float
    statistics: float

    RULES: ClassVar[Mapping[str, Rule]] = {
        "mode": OneOf(MODES),
        "epsilon": Real(0.0, 1e6, above=True),
        "delta": Real(0.0, 0.01, above=True),
        "z": Real(0.0, 10_000.0),
        "q": Real(0.0, 1.0, above=True),
        "clip": Real(0.0, 1e6, above=True),
        "cohort": Whole(0, 10_000_000),
        "sites": Whole(0, 10_000),
        "colluders": Whole(0, 10_000),
        "bits": Whole(0, 64),
        "views": Whole(1, 256),
        "local_lr": Real(0.0, 10.0, above=True),
        "hold_s": Real(0.0, 1e6),
        "statistics": Real(0.0, 100.0),
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{WHERE}: privacy", self.RULES)
        if self.statistics and self.mode not in COUNTED:
            raise InputError(f"{WHERE}: privacy.statistics: expected 0, or one of the modes {', '.join(COUNTED)}")
        if self.statistics >= self.epsilon and self.mode in NOISED:
            raise InputError(
                f"{WHERE}: privacy.statistics={self.statistics:g}: nothing is left for the rounds;"
                f" expected less than privacy.epsilon={self.epsilon:g}"
            )
