"""Faults for tests and studies: a ClientApp, or the training in it, that fails at chosen sites, rounds and tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.app import NODE_CONFIG_KEY
from client.site.config import SiteConfig
from client.training.installed import Training
from privacy.dp.encoding import Ring, from_ring, to_ring
from privacy.dp.terms import NOISE_SHARED, PrivacyTerms
from privacy.wire.messages import EvaluateTask, TrainTask, parse_request
from privacy.wire.vectors import pack_vector, unpack_vector
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from simulations.engine.run import NoAnswer

# Each fault, and what the coordinator gets from the site that has it.
FAULTS: Mapping[str, str] = {
    "nan": "one value of the update is NaN",
    "wrong_shape": "the update is one value too long",
    "huge_norm": "every value of the update is 1e20",
    "wrong_round": "the answer says that it belongs to the round before",
    "garbage": "the answer holds records that the schema does not know",
    "crash": "the app raises, and Flower sends the exception's text",
    "silence": "the app takes the task and never answers",
    "slow": "the answer comes after ``seconds``",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: what (a key of FAULTS), at which site, in which rounds (empty: all) and in which kinds of request.

    ``text`` is the exception's text in a crash. A test puts a patient's name in it, to see that the name
    is not passed on.
    """

    what: str
    site: str
    rounds: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ("train",)
    text: str = "fault"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.what not in FAULTS:
            raise InputError(f"fault {self.what!r}: expected one of {', '.join(FAULTS)}")

    def strikes(self, site: str, kind: str, round_number: int) -> bool:
        """Whether the fault happens to this request."""
        return site == self.site and kind in self.kinds and (not self.rounds or round_number in self.rounds)


def site_of(context: Context) -> str:
    """Name of the site that a node stands for, from its own configuration file."""
    return SiteConfig.load(Path(str(context.node_config[NODE_CONFIG_KEY]))).site


def add_faults(inner: ClientApp, faults: Sequence[Fault], name_of: Callable[[Context], str] = site_of) -> ClientApp:
    """Wrap a ClientApp so that the faults happen to its answers. It passes every other answer through."""

    def answer(message: Message, context: Context) -> Message:
        asked = parse_request(message.content)
        striking = [fault for fault in faults if fault.strikes(name_of(context), asked.kind, asked.round)]
        for fault in striking:
            _before(fault)
        reply = inner(message, context)
        for fault in striking:
            _spoil(fault.what, reply.content)
        return reply

    app = ClientApp()
    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    return app


def _before(fault: Fault) -> None:
    if fault.what == "crash":
        raise RuntimeError(fault.text)
    if fault.what == "silence":
        raise NoAnswer
    if fault.what == "slow":
        time.sleep(fault.seconds)


def _spoil(what: str, content: RecordDict) -> None:
    if what == "garbage":
        content["unknown"] = ConfigRecord({"unknown": "garbage"})
    if what == "wrong_round":
        head = content["head"]
        assert isinstance(head, ConfigRecord)
        head["round"] = max(0, int(str(head["round"])) - 1)
    record = content.get("vector")
    if what in ("nan", "wrong_shape", "huge_norm") and isinstance(record, ArrayRecord):
        content["vector"] = pack_vector(_spoil_update(what, unpack_vector(record).copy()))


def _spoil_update(what: str, update: Vector) -> Vector:
    if what == "nan":
        update[update.size // 2] = np.nan
    if what == "huge_norm":
        update[:] = 1e20
    return np.append(update, np.float32(0)).astype(np.float32) if what == "wrong_shape" else update


class _Passing:
    """Training that passes everything through; ``site`` and ``rounds`` (empty: all) are where a fault may strike."""

    def __init__(self, inner: Training, *, site: str, rounds: tuple[int, ...] = ()) -> None:
        self._inner, self._site, self._rounds = inner, site, rounds

    def _strikes(self, site: SiteConfig, task: TrainTask) -> bool:
        return site.site == self._site and (not self._rounds or task.round in self._rounds)

    def model(self, spec_json: str) -> tuple[str, int]:
        """Pass through."""
        return self._inner.model(spec_json)

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Pass through."""
        return self._inner.train_round(site, spec_json, vector, task)

    def private_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask, terms: PrivacyTerms
    ) -> Vector | Ring:
        """Pass through."""
        return self._inner.private_round(site, spec_json, vector, task, terms)

    def evaluate_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: EvaluateTask
    ) -> Mapping[str, float]:
        """Pass through."""
        return self._inner.evaluate_round(site, spec_json, vector, task)


class FailingTraining(_Passing):
    """Training that raises inside the hospital's own app, with a text that may hold a patient's name."""

    def __init__(self, inner: Training, error: Exception, *, site: str, rounds: tuple[int, ...] = ()) -> None:
        super().__init__(inner, site=site, rounds=rounds)
        self._error = error

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Raise at the chosen site and rounds, pass through elsewhere."""
        if self._strikes(site, task):
            raise self._error
        return super().train_round(site, spec_json, vector, task)


class LyingTraining(_Passing):
    """Training at a site that lies in mode none: it sends ``factor`` times its update, of a norm that is allowed."""

    def __init__(self, inner: Training, *, site: str, factor: float, rounds: tuple[int, ...] = ()) -> None:
        super().__init__(inner, site=site, rounds=rounds)
        self._factor = factor

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Lie at the chosen site and rounds, pass through elsewhere."""
        update, metrics = super().train_round(site, spec_json, vector, task)
        return (update * np.float32(self._factor) if self._strikes(site, task) else update), metrics


class PoisonedTraining(_Passing):
    """Training at a site that lies: in the summed modes it releases ``factor`` times what it should.

    -3 is three times its part the wrong way. The lie keeps to the protocol, masks and all, and to the norm that a sum
    may have if the factor is not too large (server/rounds/ring_sum.py): nothing but its effect gives it away.
    """

    def __init__(self, inner: Training, *, site: str, factor: float, rounds: tuple[int, ...] = ()) -> None:
        super().__init__(inner, site=site, rounds=rounds)
        self._factor = factor

    def private_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask, terms: PrivacyTerms
    ) -> Vector | Ring:
        """Release the lie at the chosen site and rounds, pass through elsewhere."""
        release = super().private_round(site, spec_json, vector, task, terms)
        if not self._strikes(site, task):
            return release
        if release.dtype == np.float32:
            modes = " or ".join(NOISE_SHARED)
            raise InputError(f"poison: mode {terms.mode} releases no ring numbers; expected {modes}")
        lie = np.rint(from_ring(cast(Ring, release)) * self._factor).astype(np.int64)
        return to_ring(lie, terms.encoding().bits)
