"""The run's configuration: one frozen dataclass, validated where it is made, read from one JSON text or from Hydra.

Its groups are in groups.py. server/conf/base.yaml holds the defaults.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from privacy.dp.terms import NOISED
from server.config.groups import WHERE, AggregateConfig, EvaluateConfig, PrivacyConfig, RoundsConfig, TrainConfig
from shared_model.core.errors import InputError
from shared_model.core.fields import Rule, Text, Whole
from shared_model.network.spec import BASES, FORMER_BASES, FORMER_KEYS, NO_BASE


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
                raise InputError(f"{WHERE}: {key} must be {rule.expected()}")
        if not isinstance(self.initial, str):
            raise InputError(f"{WHERE}: initial must be the path of an adapter's file, or empty")
        self._check_privacy()
        self._check_strategy()
        base = str(self.model.get("base", NO_BASE))
        has_base = base in BASES and base != NO_BASE  # the model's specification refuses unknown and former names
        # If the adapter is only the base, there is nothing else to train.
        most = self.rounds.count - (self.model.get("adapter") != "base")
        wrong = has_base != (self.train.base_rounds > 0) or self.train.base_rounds > most
        if wrong and base not in FORMER_BASES:
            raise InputError(
                f"{WHERE}: train.base_rounds={self.train.base_rounds}: expected 1 to rounds.count - 1 with"
                " model.base=phantom (all of them with model.adapter=base), and 0 without a base"
            )

    def _check_strategy(self) -> None:
        rule, mode, adapter = self.aggregate.rule, self.privacy.mode, str(self.model.get("adapter", ""))
        if rule != "mean" and mode != "none":
            raise InputError(
                f"{WHERE}: aggregate.rule={rule} needs each site's update, and in privacy.mode={mode} the coordinator"
                " has sums alone; use aggregate.rule=mean, or privacy.mode=none"
            )
        if self.rounds.buffer and mode != "none":
            raise InputError(
                f"{WHERE}: rounds.buffer={self.rounds.buffer}: rounds that do not wait need each site's update by"
                f" itself, and in privacy.mode={mode} the coordinator has sums alone; give 0"
            )
        if 0 < self.rounds.buffer < self.rounds.min_sites:
            raise InputError(f"{WHERE}: rounds.buffer={self.rounds.buffer}: expected rounds.min_sites or more, or 0")
        if rule == "product" and adapter not in ("lora", "lora+embeddings"):
            raise InputError(f"{WHERE}: aggregate.rule=product joins low-rank factors; expected model.adapter=lora")
        if rule == "product" and (self.aggregate.name, self.aggregate.lr, self.aggregate.average) != (
            "fedavg",
            1.0,
            0.0,
        ):
            raise InputError(
                f"{WHERE}: aggregate.rule=product gives new factors each round, which neither momentum nor an average"
                " may mix with the old ones; expected aggregate.name=fedavg, lr=1 and average=0"
            )
        if self.train.proximal and mode in ("shared", "local"):
            raise InputError(
                f"{WHERE}: train.proximal={self.train.proximal:g}: no proximal term in privacy.mode={mode}, whose steps"
                " are single gradients with noise; give 0"
            )

        self._check_kept_at_sites()

    def _check_kept_at_sites(self) -> None:
        """SCAFFOLD and FedPer: a site keeps something of its own from round to round (client/training)."""
        train, mode, aggregate = self.train, self.privacy.mode, self.aggregate
        for key, asked in (("control", train.control if train.control != "none" else ""), ("personal", train.personal)):
            if asked and mode not in ("none", "masked"):
                raise InputError(
                    f"{WHERE}: train.{key}={asked}: in privacy.mode={mode} a site's steps carry noise, which what it"
                    " keeps between rounds would carry on; use privacy.mode=masked or none"
                )
            if asked and (aggregate.rule == "product" or self.model.get("adapter") == "base"):
                raise InputError(
                    f"{WHERE}: train.{key}={asked}: expected aggregate.rule=mean and a network that trains"
                )
        plain = (aggregate.rule, aggregate.name, aggregate.lr, self.rounds.buffer) == ("mean", "fedavg", 1.0, 0)
        if train.control != "none" and not plain:
            raise InputError(
                f"{WHERE}: train.control={train.control}: a site reads the mean of all controls from how the shared"
                " vector moved; expected aggregate.rule=mean, name=fedavg, lr=1, and rounds.buffer=0"
            )

    def _check_privacy(self) -> None:
        if self.privacy.mode == "none":
            return
        mode, wrong = self.privacy.mode, ""
        if self.privacy.cohort < 1 or self.privacy.sites < 1:
            wrong = (
                "privacy.cohort and privacy.sites: expected the patients and sites that take part, as declared;"
                " privacy.mode=none trains without masks and noise, where every site's policy allows it"
            )
        elif self.rounds.evaluate_every and mode in NOISED:
            wrong = "rounds.evaluate_every: expected 0; a metric of patients would be a release without a budget"
        if wrong:
            raise InputError(f"{WHERE}: with privacy.mode={mode}: {wrong}")

    def to_json(self) -> str:
        """Write the configuration as canonical JSON: sorted keys, no blanks."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read the configuration strictly; an unknown key, wrong type or value raises InputError naming the key."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise InputError(f"{WHERE}: not valid JSON; expected the composed configuration in one object") from error
        model = raw.get("model") if isinstance(raw, dict) else None
        if isinstance(model, dict) and str(model.get("base")) not in FORMER_BASES:
            for key in FORMER_KEYS:  # a run of before they went goes on
                model.pop(key, None)
        config = _build(cls, raw, "")
        assert isinstance(config, RunConfig)
        return config


def _build(kind: type[Any], raw: object, path: str) -> object:
    if not isinstance(raw, dict):
        raise InputError(f"{WHERE}: {path or 'the whole'} must be a mapping of {', '.join(_names(kind))}")
    hints = get_type_hints(kind)
    unknown = sorted(str(key) for key in raw if key not in _names(kind))
    if unknown:
        raise InputError(f"{WHERE}: unknown key {path}{unknown[0]}; expected one of {', '.join(_names(kind))}")
    missing = [name for name in _names(kind) if name not in raw]
    if missing:
        raise InputError(f"{WHERE}: key {path}{missing[0]} is missing; server/conf/base.yaml has its default")
    values = {
        key: _build(hints[key], value, f"{path}{key}.") if is_dataclass(hints[key]) else value
        for key, value in raw.items()
    }
    if "model" in values and not isinstance(values["model"], dict):
        raise InputError(f"{WHERE}: model must be a mapping of the model's fields")
    return kind(**values)


def _names(kind: type[Any]) -> list[str]:
    return [f.name for f in fields(kind)]
