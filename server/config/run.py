"""The run's configuration: frozen dataclasses, validated where they are made, read from one JSON text or from Hydra.

This file holds the types and the limits. server/conf/base.yaml holds the defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, ClassVar, get_type_hints

from privacy.dp.terms import MODES, NOISED
from shared_model.core.errors import InputError
from shared_model.core.fields import OneOf, Real, Rule, Text, Whole, check_fields
from shared_model.network.spec import BASES, TRAINED, BaseKind

_WHERE = "run configuration"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Local training in a round. ``lr`` falls over the rounds by a half cosine to ``lr * lr_final_fraction``.

    ``stage``: "dose" trains dose prediction (stage B), "any2any" every target from any conditions (stage A).
    ``any2any_share``: the share of the rounds that are stage A. They come first; ``stage`` sets the others.
    ``curriculum``: "rising" raises the number of visible conditions over stage A to all of them, "none" draws any
    number throughout. ``base_rounds``: the number of first rounds that train only the base (``model.base=voxel`` or
    ``phantom``). Their learning rate starts at ``base_lr`` and falls on its own. ``grad_clip``: largest gradient norm.
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
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{_WHERE}: train", self.RULES)


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """How many rounds there are, how many sites each needs, how long it waits (seconds), and when it is undone.

    A round with fewer than ``min_sites`` accepted updates is repeated, ``attempts`` times in all; then the run stops.
    Before the first round it waits ``wait_for_sites_s`` for its sites, later ``wait_for_return_s``.
    ``evaluate_every`` 0 never evaluates. An update with a Euclidean norm above ``max_update_norm`` drops its site.
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
        "public_step": Real(0.0, 1000.0),
        "public_worst": Real(0.0, 1000.0),
        "public_cases": Text(r"[^\x00]*", 4096, "the path of a file of cases, or empty"),
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{_WHERE}: rounds", self.RULES)
        for key in ("public_step", "public_worst"):
            if 0.0 < getattr(self, key) < 1.0:
                raise InputError(f"{_WHERE}: rounds.{key} must be 0 (no limit) or a factor from 1, such as 1.05")

    @property
    def judged(self) -> bool:
        """Whether rounds are judged on public patients."""
        return bool(self.public_step or self.public_worst)


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """The server's optimiser on the mean update (server/rounds/aggregate.py). ``tau`` and ``beta2`` belong to fedadam.

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

    RULES: ClassVar[Mapping[str, Rule]] = {
        "name": OneOf(("fedavg", "fedavgm", "fedadam")),
        "lr": Real(0.0, 100.0, above=True),
        "beta1": Real(0.0, 0.999999),
        "beta2": Real(0.0, 0.999999),
        "tau": Real(0.0, 1.0, above=True),
        "weighting": OneOf(("patients", "equal")),
        "average": Real(0.0, 1.0),
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{_WHERE}: aggregate", self.RULES)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How sites score the shared vector: steps of the sampler and candidates a patient.

    One step from pure noise is the network's mean dose, which has the lowest error (docs/results).
    """

    sampler_steps: int
    candidates: int

    RULES: ClassVar[Mapping[str, Rule]] = {"sampler_steps": Whole(1, 1000), "candidates": Whole(1, 64)}

    def __post_init__(self) -> None:
        check_fields(self, f"{_WHERE}: evaluate", self.RULES)


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """The privacy that the coordinator asks for (privacy/dp/terms.py). Every site's own policy may refuse it.

    ``mode`` masked and none must be named explicitly, here and in every site's policy.
    ``epsilon`` at ``delta`` holds for the whole run; ``z`` 0: the least noise that keeps to it. ``q``: the chance that
    a patient takes part in a step. ``clip``: largest norm of a patient's gradient (mode site: of a site's update).
    ``cohort`` and ``sites``: the declared numbers of patients and sites, which are public. A sum needs at least
    ``rounds.min_sites`` sites; ``colluders`` of them may tell the coordinator what they know. ``bits``: size of the
    ring, 0: the smallest that fits. ``views``: random draws that are averaged into one gradient. ``local_lr``: rate of
    the steps on one patient, in mode shared with ``train.local_steps`` above 1.
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
    }

    def __post_init__(self) -> None:
        check_fields(self, f"{_WHERE}: privacy", self.RULES)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. ``model`` holds the fields of shared_model.spec.ModelSpec, checked there. Raises InputError.

    ``initial``: an adapter's file to start from, at the coordinator (public or made by an earlier run); empty: none.
    """

    name: str
    seed: int
    initial: str
    model: dict[str, Any]
    rounds: RoundsConfig  # first, because defaults of the later groups depend on it
    train: TrainConfig
    aggregate: AggregateConfig
    evaluate: EvaluateConfig
    privacy: PrivacyConfig

    def __post_init__(self) -> None:
        name = Text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", 64, "a name (letters, digits, _ . -)")
        rules: dict[str, Rule] = {"name": name, "seed": Whole(0, 2**63 - 1)}
        for key, rule in rules.items():
            if not rule.accepts(getattr(self, key)):
                raise InputError(f"{_WHERE}: {key} must be {rule.expected()}")
        if not isinstance(self.initial, str):
            raise InputError(f"{_WHERE}: initial must be the path of an adapter's file, or empty")
        self._check_privacy()
        base = self._base()
        trains_base = base is not None and base.trains
        # If the adapter is only the base, there is nothing else to train.
        most = self.rounds.count - (self.model.get("adapter") != "base")
        if trains_base != (self.train.base_rounds > 0) or self.train.base_rounds > most:
            raise InputError(
                f"{_WHERE}: train.base_rounds={self.train.base_rounds}: expected 1 to rounds.count - 1 with"
                f" model.base={TRAINED} (all of them with model.adapter=base), and 0 with any other base"
            )

    def _base(self) -> BaseKind | None:
        """The kind of the model's base; None for an unknown name, which the model's specification refuses later."""
        return BASES.get(str(self.model.get("base", "none")))

    def _check_privacy(self) -> None:
        if self.privacy.mode == "none":
            return
        mode, wrong, base = self.privacy.mode, "", self._base()
        if self.privacy.cohort < 1 or self.privacy.sites < 1:
            wrong = (
                "privacy.cohort and privacy.sites: expected the patients and sites that take part, as declared;"
                " privacy.mode=none trains without masks and noise, where every site's policy allows it"
            )
        elif self.rounds.evaluate_every and mode in NOISED:
            wrong = "rounds.evaluate_every: expected 0; a metric of patients would be a release without a budget"
        elif base is not None and base.fitted_by_sums and not self.model.get("base_weights"):
            wrong = (
                f"model.base={self.model['base']}: its sums would leave the sites unprotected;"
                f" expected {TRAINED} or none"
            )
        if wrong:
            raise InputError(f"{_WHERE}: with privacy.mode={mode}: {wrong}")

    def to_json(self) -> str:
        """Write the configuration as canonical JSON: sorted keys, no blanks."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read the configuration strictly; an unknown key, wrong type or value raises InputError naming the key."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise InputError(f"{_WHERE}: not valid JSON; expected the composed configuration in one object") from error
        config = _build(cls, raw, "")
        assert isinstance(config, RunConfig)
        return config


def _build(kind: type[Any], raw: object, path: str) -> object:
    if not isinstance(raw, dict):
        raise InputError(f"{_WHERE}: {path or 'the whole'} must be a mapping of {', '.join(_names(kind))}")
    hints = get_type_hints(kind)
    unknown = sorted(str(key) for key in raw if key not in _names(kind))
    if unknown:
        raise InputError(f"{_WHERE}: unknown key {path}{unknown[0]}; expected one of {', '.join(_names(kind))}")
    missing = [name for name in _names(kind) if name not in raw]
    if missing:
        raise InputError(f"{_WHERE}: key {path}{missing[0]} is missing; server/conf/base.yaml has its default")
    values = {
        key: _build(hints[key], value, f"{path}{key}.") if is_dataclass(hints[key]) else value
        for key, value in raw.items()
    }
    if "model" in values and not isinstance(values["model"], dict):
        raise InputError(f"{_WHERE}: model must be a mapping of the model's fields")
    return kind(**values)


def _names(kind: type[Any]) -> list[str]:
    return [f.name for f in fields(kind)]
