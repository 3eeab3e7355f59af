"""The one wire schema between coordinator and site, version 1: nothing else builds or reads messages.

A request is a ``RecordDict`` of ``head`` (ConfigRecord: schema, kind, run id, spec, manifest hash), ``task`` (train and
evaluate) and ``vector`` (train and evaluate: one ArrayRecord with one flat float32 array). A reply is ``head`` (schema,
kind, run id, site, patients, round; a refusal's code and text), ``metrics`` and, for train, ``vector`` (the update) or
``ring`` (the noised release of modes shared and site), or, for base, ``sums`` (int64: what the closed-form base is
solved from, shared_model/base.py).
Arrays travel as raw little-endian bytes, so that reading one copies nothing and parses no foreign header.
Every field is checked when a message is made and again when it is read; raises MessageError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privacy.encoding import Ring
from privacy.fields import MessageError, OneOf, Real, Rule, Text, Whole, check_values
from privacy.tasks import TASKS, Task
from privacy.tasks import EvaluateTask as EvaluateTask
from privacy.tasks import TrainTask as TrainTask
from privacy.vectors import (
    Sums,
    Vector,
    pack_ring,
    pack_sums,
    pack_vector,
    unpack_ring,
    unpack_sums,
    unpack_vector,
)

SCHEMA = 1
KINDS = ("describe", "base", "train", "evaluate")
# Kind -> Flower's message type.
MESSAGE_TYPES: Mapping[str, str] = {"describe": "query", "base": "query", "train": "train", "evaluate": "evaluate"}
MAX_PATIENTS = 1_000_000
MAX_METRICS = 64

REFUSALS: Mapping[str, str] = {
    "schema": "the request does not follow the message schema that this site has installed",
    "wrong_model": "the request's model is not the one that this site has installed",
    "bad_task": "the task holds a value outside the allowed range",
    "site_config": "the site's own configuration cannot be read; see the site's log",
    "no_patients": "the site has no patients for this task",
    "data": "the site's data could not be read; see the site's log",
    "policy": "the site's policy refuses the request",
    "training_failed": "training failed at the site; see the site's log",
    "evaluation_failed": "evaluation failed at the site; see the site's log",
    "not_finite": "the site's result holds values that are not finite",
    "internal": "the site failed; see the site's log",
}

# Text of the error with which a site's executor answers an open task when the site's staff stops it.
SITE_STOPS = "the site is being stopped"

_SITE = Text(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", 32, "a site's name (letters, digits, _ and -)")
_RUN_ID = Text(r"[0-9a-f]{32}", 32, "a run id (32 hex digits)")
_KIND = OneOf(KINDS)
_REQUEST_HEAD: Mapping[str, Rule] = {
    "schema": Whole(SCHEMA, SCHEMA),
    "kind": _KIND,
    "run-id": _RUN_ID,
    "spec": Text(r"\{[\x20-\x7e]*\}", 20_000, "the model's specification in JSON"),
    "manifest": Text(r"[0-9a-f]{64}", 64, "the manifest's SHA-256 in hex"),
}
_REPLY_HEAD: Mapping[str, Rule] = {
    "schema": Whole(SCHEMA, SCHEMA),
    "kind": _KIND,
    "run-id": _RUN_ID,
    "site": _SITE,
    "patients": Whole(1, MAX_PATIENTS),
    "round": Whole(0, 1_000_000),
}
_REFUSAL_HEAD: Mapping[str, Rule] = {
    **_REPLY_HEAD,
    # A request that cannot be read yields neither run id nor round, and a broken site configuration no name.
    "run-id": Text(r"([0-9a-f]{32})?", 32, "a run id or nothing"),
    "site": Text(r"([A-Za-z0-9][A-Za-z0-9_-]{0,31})?", 32, "a site's name or nothing"),
    "patients": Whole(0, 0),
    "refusal": OneOf(tuple(REFUSALS)),
    "text": Text(r"[\x20-\x7e]*", 200, "printable ASCII"),
}
_METRIC_NAME = Text(r"[a-z][a-z0-9_]{0,47}", 48, "a metric's name")
_METRIC_VALUE = Real(-1e30, 1e30)

_Record = TypeVar("_Record", ConfigRecord, MetricRecord, ArrayRecord)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the coordinator asks. ``vector`` is (d,) float32 and read-only; describe and base have no task or vector."""

    kind: str
    run_id: str
    spec_json: str
    manifest_hash: str
    task: Task | None = None
    vector: Vector | None = None

    @property
    def round(self) -> int:
        """The task's round; 0 before the first."""
        return 0 if self.task is None else self.task.round


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a site did not do it: a code of REFUSALS and, for "policy" alone, the policy's own words."""

    code: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a site answers. ``vector`` is the update (local - global), (d,) float32, in a train reply alone.

    ``ring``: the release of a train reply in modes shared and site, (d,) numbers of a ring, in place of an update.
    ``sums`` are the (s,) int64 sums of a base reply. ``site`` and ``run_id`` may be empty in a refusal. The values of
    ``vector`` and ``sums`` are not checked here: the server does that while it adds them up (server/aggregate.py,
    server/base_fit.py), where it can name the site and the reason.
    """

    kind: str
    site: str
    round: int
    run_id: str = ""
    patients: int = 0
    vector: Vector | None = None
    ring: Ring | None = None
    sums: Sums | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    refusal: Refusal | None = None


def request(message: Request) -> RecordDict:
    """Pack a request; one result may go to many sites, for nothing in it names a site."""
    head: dict[str, int | str] = {
        "schema": SCHEMA,
        "kind": message.kind,
        "run-id": message.run_id,
        "spec": message.spec_json,
        "manifest": message.manifest_hash,
    }
    check_values("schema", "request", head, _REQUEST_HEAD)
    content = RecordDict({"head": ConfigRecord({**head})})
    expected = TASKS.get(message.kind)
    if type(message.task) is not (expected or type(None)) or (message.vector is None) != (expected is None):
        raise MessageError("schema", f"request: a {message.kind} carries another task or vector than the schema wants")
    if message.task is not None and message.vector is not None:
        task = {f.name: getattr(message.task, f.name) for f in fields(message.task)}
        content["task"] = ConfigRecord(task)
        content["vector"] = pack_vector(message.vector)
    return content


def parse_request(content: RecordDict) -> Request:
    """Unpack and check a request at the site."""
    head = _record(content, "head", ConfigRecord)
    check_values("schema", "request", head, _REQUEST_HEAD)
    kind = str(head["kind"])
    _expect_records(content, {"head", "task", "vector"} if kind in TASKS else {"head"})
    task, vector = None, None
    if kind in TASKS:
        values = dict(_record(content, "task", ConfigRecord))
        check_values("bad_task", f"{kind} task", values, TASKS[kind].RULES)
        untyped: dict[str, Any] = values
        task = TASKS[kind](**untyped)
        vector = unpack_vector(_record(content, "vector", ArrayRecord))
        if not np.isfinite(vector).all():
            raise MessageError("schema", "request: the vector holds values that are not finite")
    return Request(
        kind=kind,
        run_id=str(head["run-id"]),
        spec_json=str(head["spec"]),
        manifest_hash=str(head["manifest"]),
        task=task,
        vector=vector,
    )


def reply(message: Reply) -> RecordDict:
    """Pack a reply at the site. A refusal carries no patients, metrics or vector."""
    head: dict[str, int | str] = {
        "schema": SCHEMA,
        "kind": message.kind,
        "run-id": message.run_id,
        "site": message.site,
        "patients": message.patients,
        "round": message.round,
    }
    if message.refusal is not None:
        head.update(refusal=message.refusal.code, text=message.refusal.text)
        _check_refusal(head)
        return RecordDict({"head": ConfigRecord({**head})})
    check_values("schema", "reply", head, _REPLY_HEAD)
    metrics = {name: float(value) for name, value in message.metrics.items()}
    if not all(math.isfinite(value) for value in metrics.values()):
        raise MessageError("not_finite", "reply: a metric is not finite")
    _check_metrics(metrics)
    if [message.vector is not None, message.ring is not None].count(True) != (message.kind == "train"):
        raise MessageError("schema", "reply: a train reply carries a vector or a release, and no other does")
    if (message.sums is not None) != (message.kind == "base"):
        raise MessageError("schema", "reply: a base reply carries sums, and no other does")
    content = RecordDict({"head": ConfigRecord({**head}), "metrics": MetricRecord({**metrics})})
    if message.vector is not None:
        if not np.isfinite(message.vector).all():
            raise MessageError("not_finite", "reply: the update holds values that are not finite")
        content["vector"] = pack_vector(message.vector)
    if message.ring is not None:
        content["ring"] = pack_ring(message.ring)
    if message.sums is not None:
        content["sums"] = pack_sums(message.sums)
    return content


def parse_reply(content: RecordDict) -> Reply:
    """Unpack and check a reply at the coordinator."""
    head: dict[str, Any] = dict(_record(content, "head", ConfigRecord))
    if "refusal" in head:
        _check_refusal(head)
        _expect_records(content, {"head"})
        return _reply(head, refusal=Refusal(code=head["refusal"], text=head["text"]))
    check_values("schema", "reply", head, _REPLY_HEAD)
    train = "ring" if "ring" in content else "vector"
    array = {"train": {train}, "base": {"sums"}}.get(head["kind"], set())
    _expect_records(content, {"head", "metrics"} | array)
    metrics: dict[str, Any] = dict(_record(content, "metrics", MetricRecord))
    _check_metrics(metrics)
    vector = unpack_vector(_record(content, "vector", ArrayRecord)) if "vector" in array else None
    ring = unpack_ring(_record(content, "ring", ArrayRecord)) if "ring" in array else None
    sums = unpack_sums(_record(content, "sums", ArrayRecord)) if "sums" in array else None
    return _reply(head, metrics=metrics, vector=vector, ring=ring, sums=sums)


def _reply(head: Mapping[str, Any], **rest: Any) -> Reply:
    named = {"kind": head["kind"], "site": head["site"], "round": head["round"], "run_id": head["run-id"]}
    return Reply(**named, patients=head["patients"], **rest)


def wire_bytes(content: RecordDict) -> int:
    """Count the payload bytes of a message: array bytes, and keys and values of the other records."""
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        else:
            total += sum(len(key) + (len(v) if isinstance(v, str | bytes) else 8) for key, v in record.items())
    return total


def _record(content: RecordDict, key: str, kind: type[_Record]) -> _Record:
    record = content.get(key)
    if not isinstance(record, kind):
        raise MessageError("schema", f"message: record {key} is missing or of another kind")
    return record


def _expect_records(content: RecordDict, expected: set[str]) -> None:
    if set(content) != expected:
        raise MessageError("schema", f"message: must hold exactly the records {', '.join(sorted(expected))}")


def _check_refusal(head: Mapping[str, object]) -> None:
    check_values("schema", "refusal", head, _REFUSAL_HEAD)
    if head["text"] and head["refusal"] != "policy":
        raise MessageError("schema", "refusal: only a policy's refusal carries a text of its own")


def _check_metrics(metrics: Mapping[str, object]) -> None:
    if len(metrics) > MAX_METRICS:
        raise MessageError("schema", f"metrics: more than {MAX_METRICS}")
    if not all(_METRIC_NAME.accepts(name) for name in metrics):
        raise MessageError("schema", f"metrics: a name is not {_METRIC_NAME.expected()}")
    if not all(_METRIC_VALUE.accepts(value) for value in metrics.values()):
        raise MessageError("schema", f"metrics: a value is not {_METRIC_VALUE.expected()}")
