"""The hospital's Flower ClientApp: checks a request, runs the installed code on the site's data, answers or refuses.

The site's own limits come first (client/limits.py). Nothing private travels: whatever fails, the coordinator gets a
fixed code (privacy/messages.py). The details go to the logger ``fedkt3d.site`` alone: it passes nothing on and prints
nothing until the site attaches a handler of its own. Torch is imported when a model is first needed, so that a
process is up at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.limits import Limits
from client.site import SiteConfig
from privacy.fields import MessageError
from privacy.messages import (
    MESSAGE_TYPES,
    EvaluateTask,
    Refusal,
    Reply,
    Request,
    TrainTask,
    parse_request,
    reply,
)
from privacy.secure_records import SECURE_KINDS
from shared_model.errors import InputError, PolicyError

NODE_CONFIG_KEY = "site-config"
# The site's folder: its policy and plan. Set by the site's executor; a simulation has neither.
HOME_KEY = "home"
SITE_LOG = logging.getLogger("fedkt3d.site")
SITE_LOG.propagate = False
SITE_LOG.addHandler(logging.NullHandler())
_LOG = logging.getLogger("fedkt3d.client")

Vector = NDArray[np.float32]
Sums = NDArray[np.int64]


class Training(Protocol):
    """What the app needs of a model. ``spec_json`` is the coordinator's specification; vectors are (d,) float32."""

    def model(self, spec_json: str) -> tuple[str, int]:
        """Manifest hash and vector length of the model as installed here; raises InputError for an unknown one."""
        ...

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Train locally; returns (update = local - shared, metrics)."""
        ...

    def evaluate_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: EvaluateTask
    ) -> Mapping[str, float]:
        """Score the shared vector on the site's validation patients."""
        ...

    def base_sums(self, site: SiteConfig, spec_json: str) -> Sums:
        """Sum what the closed-form base is solved from over the site's training patients, (s,) int64."""
        ...


class InstalledTraining:
    """The model that is installed with this package; every method imports torch when it is first called."""

    def model(self, spec_json: str) -> tuple[str, int]:
        """Manifest hash and vector length, kept for the models asked for last."""
        return _installed_model(spec_json)

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Train with client/train.py."""
        from client.train import train_round
        from shared_model.spec import ModelSpec

        return train_round(site, ModelSpec.from_json(spec_json), vector, task)

    def evaluate_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: EvaluateTask
    ) -> Mapping[str, float]:
        """Score with client/train.py."""
        from client.train import evaluate_round
        from shared_model.spec import ModelSpec

        return evaluate_round(site, ModelSpec.from_json(spec_json), vector, task)

    def base_sums(self, site: SiteConfig, spec_json: str) -> Sums:
        """Sum with client/base.py."""
        from client.base import base_sums
        from shared_model.spec import ModelSpec

        return base_sums(site, ModelSpec.from_json(spec_json))


@lru_cache(maxsize=8)
def _installed_model(spec_json: str) -> tuple[str, int]:
    from shared_model.manifest import initial_vector, manifest_hash
    from shared_model.spec import ModelSpec

    spec = ModelSpec.from_json(spec_json)
    return manifest_hash(spec), int(initial_vector(spec).size)


class _RefusedError(Exception):
    """Ends the handling of a request with a code of ours; the cause is logged at the site."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.text = text


@dataclass
class _Known:
    """What is known of the request so far, for the head of a refusal."""

    kind: str
    site: str = ""
    run_id: str = ""
    round: int = 0


def client_app(training: Training) -> ClientApp:
    """Make a ClientApp that answers every kind of request with ``training``; safe in several threads at once."""
    flower = ClientApp()
    for name, register in (("query", flower.query()), ("train", flower.train()), ("evaluate", flower.evaluate())):
        register(partial(_handle, tuple(k for k, t in MESSAGE_TYPES.items() if t == name), training))
    return flower


def _handle(kinds: Sequence[str], training: Training, message: Message, context: Context) -> Message:
    """Answer one message of one of ``kinds``; every failure becomes a refusal."""
    known = _Known(kind=kinds[0])
    try:
        content = _answer(kinds, training, message.content, context, known)
    # SystemExit too: a library that calls sys.exit must not end the site's process.
    except (Exception, SystemExit) as error:
        kind = known.kind
        refusal = _refusal(error, _FAILED[kind])
        _LOG.warning("%s of round %d refused: %s (%s)", kind, known.round, refusal.code, type(error).__name__)
        SITE_LOG.error("%s of round %d refused: %s", kind, known.round, refusal.code, exc_info=error)
        content = reply(Reply(kind=kind, site=known.site, round=known.round, run_id=known.run_id, refusal=refusal))
    return Message(content, reply_to=message)


def _refusal(error: BaseException, otherwise: str) -> Refusal:
    """Turn a failure into a code; of all texts only a policy's own, written for the coordinator, is passed on."""
    if isinstance(error, _RefusedError):
        return Refusal(code=error.code)
    if isinstance(error, PolicyError):
        printable = "".join(c if " " <= c <= "~" else "?" for c in str(error))
        return Refusal(code="policy", text=printable[:200])
    if isinstance(error, MessageError):
        return Refusal(code=error.code)
    return Refusal(code="data" if isinstance(error, InputError) else otherwise)


def _answer(
    kinds: Sequence[str], training: Training, content: RecordDict, context: Context, known: _Known
) -> RecordDict:
    site = _site(context, known)
    asked = parse_request(content)
    known.run_id, known.round = asked.run_id, asked.round
    if asked.kind not in kinds:
        raise _RefusedError("schema")
    known.kind = asked.kind
    if asked.secure is not None:  # never answered in clear
        raise _RefusedError("secure")
    patients = len(site.validation if asked.kind == "evaluate" else site.train)
    if patients == 0:
        raise _RefusedError("no_patients")
    limits = _limits(context)
    if limits is not None:
        _check_limits(limits, site, asked)
    size = _check_model(training, asked)
    if limits is not None:
        limits.check_size(size)
    update, metrics = _run(training, site, asked)
    if limits is not None:
        metrics = limits.allowed(metrics)
    return reply(
        Reply(
            kind=asked.kind,
            site=site.site,
            round=asked.round,
            run_id=asked.run_id,
            patients=patients,
            vector=update,
            sums=training.base_sums(site, asked.spec_json) if asked.kind == "base" else None,
            metrics=metrics,
        )
    )


def _run(training: Training, site: SiteConfig, asked: Request) -> tuple[Vector | None, Mapping[str, float]]:
    """Do the task; returns (update or None, metrics)."""
    task, vector = asked.task, asked.vector
    if task is None or vector is None:
        return None, {}
    # The message's own bytes are read-only, and torch wants arrays that it may write.
    vector = vector.copy()
    if isinstance(task, EvaluateTask):
        return None, training.evaluate_round(site, asked.spec_json, vector, task)
    update, metrics = training.train_round(site, asked.spec_json, vector, task)
    if update.shape != vector.shape or update.dtype != np.float32:
        raise _RefusedError("training_failed")
    return update, metrics


def _check_limits(limits: Limits, site: SiteConfig, asked: Request) -> None:
    try:
        limits.check_request(site, asked, datetime.now())
    except InputError as error:  # the specification cannot be read
        raise _RefusedError("wrong_model") from error


def _check_model(training: Training, asked: Request) -> int:
    """Length of the vector of the model asked for, when it is the one installed here."""
    try:
        manifest, size = training.model(asked.spec_json)
    except InputError as error:
        raise _RefusedError("wrong_model") from error
    if manifest != asked.manifest_hash or (asked.vector is not None and asked.vector.size != size):
        raise _RefusedError("wrong_model")
    return size


def _limits(context: Context) -> Limits | None:
    folder = context.node_config.get(HOME_KEY)
    if folder is None:
        return None
    try:
        return Limits.of_home(Path(str(folder)))
    except InputError as error:
        raise _RefusedError("site_config") from error


def _site(context: Context, known: _Known) -> SiteConfig:
    path = context.node_config.get(NODE_CONFIG_KEY)
    try:
        if not isinstance(path, str):
            raise InputError(f"node config: {NODE_CONFIG_KEY} is missing; expected the path of the site's YAML file")
        status = Path(path).stat()
        site = _load_site(path, status.st_mtime_ns, status.st_size)
    except (InputError, OSError) as error:
        raise _RefusedError("site_config") from error
    known.site = site.site
    return site


@lru_cache(maxsize=256)
def _load_site(path: str, modified_ns: int, size: int) -> SiteConfig:
    """Load a site's configuration once for as long as its file stays the same."""
    return SiteConfig.load(Path(path))


_FAILED: Mapping[str, str] = {
    **dict.fromkeys(SECURE_KINDS, "internal"),
    "describe": "internal",
    "base": "training_failed",
    "train": "training_failed",
    "evaluate": "evaluation_failed",
}

app = client_app(InstalledTraining())
