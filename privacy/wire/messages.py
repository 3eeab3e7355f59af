"""The one wire schema between coordinator and site. No other code builds or reads messages (heads.py: its versions).

A request is a ``RecordDict`` of ``head`` (ConfigRecord: schema, kind, run id, spec, manifest hash), ``task`` (those of
TASKS) and ``vector`` (train and evaluate: one ArrayRecord with one flat float32 array). A reply is ``head`` (schema,
kind, run id, site, patients, round; a refusal's code and text), ``metrics`` and, for train, ``vector`` (the update).
Secure aggregation adds ``secure``, one message of privacy/secagg, to both. If a request of MASKED_KINDS has ``secure``,
the answer holds only ``secure`` and a masked ``ring``. In every mode but none, answers travel only this way.
Arrays travel as raw little-endian bytes: reading one copies nothing, parses no foreign header. Every field is checked
when a message is made and when it is read; a wrong one raises MessageError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privacy.dp.encoding import Ring
from privacy.secagg.layout import Packed
from privacy.wire.heads import (
    REPLY_HEAD,
    REQUEST_HEAD,
    SCHEMA,
    SECURE_HEAD,
    check_head,
    check_metrics,
    check_refusal,
    newer_rules,
)
from privacy.wire.refusals import REFUSALS as REFUSALS
from privacy.wire.refusals import Refusal as Refusal
from privacy.wire.secure_records import (
    ANSWERED,
    ASKED,
    MASKED_KINDS,
    SECURE_KINDS,
    asked_round,
    pack_complaint,
    pack_secure,
    unpack_complaint,
    unpack_secure,
)
from privacy.wire.tasks import TASKS, WITH_VECTOR, Task, sent_fields
from privacy.wire.tasks import EvaluateTask as EvaluateTask
from privacy.wire.tasks import StatisticsTask as StatisticsTask
from privacy.wire.tasks import TrainTask as TrainTask
from privacy.wire.vectors import pack_ring, pack_vector, unpack_ring, unpack_vector
from shared_model.core.fields import MessageError, check_values
from shared_model.core.vector import Vector

# Kind -> Flower's message type.
MESSAGE_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("describe", "statistics", *SECURE_KINDS), "query"),
    "train": "train",
    "evaluate": "evaluate",
}

# When a site's staff stops the site's executor, the executor answers an open task with an error of this text.
SITE_STOPS = "the site is being stopped"

_Record = TypeVar("_Record", ConfigRecord, MetricRecord, ArrayRecord)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the coordinator asks. ``vector`` is (d,) float32, read-only. TASKS have a task, WITH_VECTOR also a vector.

    ``secure``: the protocol's message. SECURE_KINDS always have it; MASKED_KINDS have it if the answer is masked.
    ``instance``: the start of the site's node that is meant; ``ledger``: the newest record of the site's ledger that
    the coordinator has seen; ``receipt``: news of the coordinator's log (privacy/trust/public_log.py). Each may be
    empty; server/sites/dialect.py fills them in for each site.
    """

    kind: str
    run_id: str
    spec_json: str
    manifest_hash: str
    task: Task | None = None
    vector: Vector | None = None
    secure: Packed | None = None
    schema: int = SCHEMA
    instance: str = ""
    ledger: str = ""
    receipt: str = ""

    @property
    def round(self) -> int:
        """The round of the task or of the protocol; 0 before the first round."""
        if self.task is not None:
            return self.task.round
        return 0 if self.secure is None else asked_round(self.secure)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a site answers. ``vector`` is the update (local - global), (d,) float32, only in a train reply.

    ``secure`` is the protocol's message. With it, ``ring`` replaces the update or the metrics of a reply: the masked
    vector, (d,) numbers of a ring. ``site`` and ``run_id`` may be empty in a refusal. The values of ``vector`` are not
    checked here. The server checks them while it adds them up (server/strategy/), where it can name the site and the
    reason. ``seen``: how many entries of the coordinator's log the site has seen.
    """

    kind: str
    site: str
    round: int
    run_id: str = ""
    patients: int = 0
    vector: Vector | None = None
    ring: Ring | None = None
    secure: Packed | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    refusal: Refusal | None = None
    schema: int = SCHEMA
    instance: str = ""
    ledger: str = ""
    seen: int = 0


def request(message: Request) -> RecordDict:
    """Pack a request. The result may go to many sites, because nothing in it names a site."""
    head: dict[str, int | str] = {
        "schema": message.schema,
        "kind": message.kind,
        "run-id": message.run_id,
        "spec": message.spec_json,
        "manifest": message.manifest_hash,
        **{name: getattr(message, name) for name in newer_rules("request", message.schema)},
    }
    check_head("request", head, REQUEST_HEAD)
    content = RecordDict({"head": ConfigRecord({**head})})
    fits = type(message.task) is TASKS.get(message.kind, type(None))
    if not fits or (message.vector is None) == (message.kind in WITH_VECTOR):
        raise MessageError("schema", f"request: the task or vector of a {message.kind} request does not fit the schema")
    if message.task is not None:
        content["task"] = ConfigRecord(sent_fields(message.task))
    if message.vector is not None:
        content["vector"] = pack_vector(message.vector)
    if message.kind in SECURE_KINDS and message.secure is None:
        raise MessageError("schema", f"request: a {message.kind} request must hold a message of secure aggregation")
    if message.secure is not None:
        content["secure"] = pack_secure(message.secure, ASKED, message.kind)
        _check_round(message)
    return content


def parse_request(content: RecordDict) -> Request:
    """Unpack and check a request at the site."""
    head = _record(content, "head", ConfigRecord)
    check_head("request", head, REQUEST_HEAD)
    kind = str(head["kind"])
    secure = {"secure"} if kind in SECURE_KINDS or (kind in MASKED_KINDS and "secure" in content) else set()
    tasked = {"task"} if kind in TASKS else set()
    _expect_records(content, {"head", *secure, *tasked} | ({"vector"} if kind in WITH_VECTOR else set()))
    task, vector = None, None
    if tasked:
        values: dict[str, Any] = {**TASKS[kind].LATER, **_record(content, "task", ConfigRecord)}
        check_values("bad_task", f"{kind} task", values, TASKS[kind].RULES)
        task = TASKS[kind](**values)
    if kind in WITH_VECTOR:
        vector = unpack_vector(_record(content, "vector", ArrayRecord))
        if not np.isfinite(vector).all():
            raise MessageError("schema", "request: the vector holds values that are not finite")
    asked = Request(
        kind=kind,
        run_id=str(head["run-id"]),
        spec_json=str(head["spec"]),
        manifest_hash=str(head["manifest"]),
        task=task,
        vector=vector,
        secure=unpack_secure(_record(content, "secure", ConfigRecord), ASKED, kind) if secure else None,
        **_own(head),
    )
    _check_round(asked)
    return asked


def reply(message: Reply) -> RecordDict:
    """Pack a reply at the site. A refusal holds no patients, metrics or vector, but may hold a signed complaint."""
    head: dict[str, int | str] = {
        "schema": message.schema,
        "kind": message.kind,
        "run-id": message.run_id,
        "site": message.site,
        "patients": message.patients,
        "round": message.round,
        **{name: getattr(message, name) for name in newer_rules("reply", message.schema)},
    }
    if message.refusal is not None:
        head.update(refusal=message.refusal.code, text=message.refusal.text)
        check_refusal(head)
        refused = RecordDict({"head": ConfigRecord({**head})})
        if message.secure is not None:
            refused["secure"] = pack_complaint(message.secure)
        return refused
    check_head("reply", head, REPLY_HEAD if message.secure is None else SECURE_HEAD)
    metrics = {name: float(value) for name, value in message.metrics.items()}
    if not all(map(math.isfinite, metrics.values())):
        raise MessageError("not_finite", "reply: a metric is not finite")
    check_metrics(metrics)
    expected = _reply_arrays(message.kind, message.secure is not None)
    for name in ("vector", "ring"):
        if (getattr(message, name) is not None) != (name in expected):
            raise MessageError("schema", "reply: a train reply has a vector, a masked one a ring")
    content = RecordDict({"head": ConfigRecord({**head}), "metrics": MetricRecord({**metrics})})
    if message.vector is not None:
        if not np.isfinite(message.vector).all():
            raise MessageError("not_finite", "reply: the update holds values that are not finite")
        content["vector"] = pack_vector(message.vector)
    if message.ring is not None:
        content["ring"] = pack_ring(message.ring)
    if message.secure is not None:
        content["secure"] = pack_secure(message.secure, ANSWERED, message.kind)
    return content


def parse_reply(content: RecordDict) -> Reply:
    """Unpack and check a reply at the coordinator."""
    head: dict[str, Any] = dict(_record(content, "head", ConfigRecord))
    if "refusal" in head:
        check_refusal(head)
        complained = "secure" in content
        _expect_records(content, {"head", "secure"} if complained else {"head"})
        complaint = unpack_complaint(_record(content, "secure", ConfigRecord)) if complained else None
        return _reply(head, refusal=Refusal(code=head["refusal"], text=head["text"]), secure=complaint)
    masked = "secure" in content
    check_head("reply", head, SECURE_HEAD if masked else REPLY_HEAD)
    array = _reply_arrays(head["kind"], masked)
    _expect_records(content, {"head", "metrics"} | array)
    metrics: dict[str, Any] = dict(_record(content, "metrics", MetricRecord))
    check_metrics(metrics)
    vector = unpack_vector(_record(content, "vector", ArrayRecord)) if "vector" in array else None
    ring = unpack_ring(_record(content, "ring", ArrayRecord)) if "ring" in array else None
    secure = unpack_secure(_record(content, "secure", ConfigRecord), ANSWERED, head["kind"]) if masked else None
    return _reply(head, metrics=metrics, vector=vector, ring=ring, secure=secure)


def _reply(head: Mapping[str, Any], **rest: Any) -> Reply:
    named = {"kind": head["kind"], "site": head["site"], "round": head["round"], "run_id": head["run-id"]}
    return Reply(**named, patients=head["patients"], **_own(head), **rest)


def _own(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a checked head, and the fields that schema 1 did not have."""
    return {name: head[name] for name in ("schema", "instance", "ledger", "receipt", "seen") if name in head}


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


def _reply_arrays(kind: str, masked: bool) -> set[str]:
    """Return the records of a reply other than head and metrics."""
    if masked != (kind in SECURE_KINDS) and not (masked and kind in MASKED_KINDS):
        raise MessageError("schema", "reply: a message of secure aggregation is missing, or does not belong here")
    if masked:
        return {"secure"} if kind in SECURE_KINDS else {"secure", "ring"}
    return {"vector"} if kind == "train" else set()


def _check_round(asked: Request) -> None:
    if asked.secure is not None and asked.task is not None and asked.task.round != asked_round(asked.secure):
        raise MessageError("schema", "request: the task and its secure aggregation are for different rounds")


def _expect_records(content: RecordDict, expected: set[str]) -> None:
    if set(content) != expected:
        raise MessageError("schema", f"message: must hold exactly the records {', '.join(sorted(expected))}")
