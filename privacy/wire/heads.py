"""What the head and the metrics of a wire message may hold: the schema's rules, field by field."""

from __future__ import annotations

from collections.abc import Mapping

from privacy.wire.refusals import REFUSALS, WORDED
from privacy.wire.secure_records import SECURE_KINDS
from shared_model.core.fields import MessageError, OneOf, Real, Rule, Text, Whole, check_values

# What this version writes, and the oldest that it still reads and answers. A site answers in the schema that it was
# asked in. The coordinator asks in SCHEMA first, and in the one before where a site does not know it.
SCHEMA, OLDEST_SCHEMA = 3, 1
# What a site's policy may allow or forbid. Secure aggregation only carries these kinds.
KINDS = ("describe", "train", "evaluate", "statistics")
_MAX_PATIENTS = 1_000_000
_MAX_METRICS = 64

_SITE = Text(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", 32, "a site's name (letters, digits, _ and -)")
_RUN_ID = Text(r"[0-9a-f]{32}", 32, "a run id (32 hex digits)")
_KIND = OneOf((*KINDS, *SECURE_KINDS))
# Since schema 2: which start of the site's node is meant or answers, and the newest record of its ledger (privacy/dp).
INSTANCE = Text(r"([0-9a-f]{32})?", 32, "a node's instance (32 hex digits) or nothing")
LEDGER = Text(r"([0-9a-f]{64})?", 64, "a ledger's newest hash (64 hex digits) or nothing")
_SINCE_2: Mapping[str, Rule] = {"instance": INSTANCE, "ledger": LEDGER}
# Since schema 3: news of the coordinator's transparency log, and how many entries the site has seen of it.
RECEIPT = Text(r"(\{[\x20-\x7e]*\})?", 100_000, "a receipt of the log in JSON, or nothing")
SEEN = Whole(0, 2**31)
REQUEST_HEAD: Mapping[str, Rule] = {
    "schema": Whole(OLDEST_SCHEMA, SCHEMA),
    "kind": _KIND,
    "run-id": _RUN_ID,
    "spec": Text(r"\{[\x20-\x7e]*\}", 20_000, "the model's specification in JSON"),
    "manifest": Text(r"[0-9a-f]{64}", 64, "the manifest's SHA-256 in hex"),
}
REPLY_HEAD: Mapping[str, Rule] = {
    "schema": Whole(OLDEST_SCHEMA, SCHEMA),
    "kind": _KIND,
    "run-id": _RUN_ID,
    "site": _SITE,
    "patients": Whole(1, _MAX_PATIENTS),
    "round": Whole(0, 1_000_000),
}
# A plain patient count would reveal what the masks hide.
SECURE_HEAD: Mapping[str, Rule] = {**REPLY_HEAD, "patients": Whole(0, 0)}
REFUSAL_HEAD: Mapping[str, Rule] = {
    **REPLY_HEAD,
    # An unreadable request has no run id and no round. A broken site configuration has no site name.
    "run-id": Text(r"([0-9a-f]{32})?", 32, "a run id or nothing"),
    "site": Text(r"([A-Za-z0-9][A-Za-z0-9_-]{0,31})?", 32, "a site's name or nothing"),
    "patients": Whole(0, 0),
    "refusal": OneOf(tuple(REFUSALS)),
    "text": Text(r"[\x20-\x7e]*", 200, "printable ASCII"),
}
_METRIC_NAME = Text(r"[a-z][a-z0-9_]{0,47}", 48, "a metric's name")
_METRIC_VALUE = Real(-1e30, 1e30)


def check_head(what: str, head: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
    """Hold a head against ``rules`` and those of its own schema; MessageError where it breaks one."""
    schema = head.get("schema")
    if type(schema) is not int or not OLDEST_SCHEMA <= schema <= SCHEMA:
        raise MessageError("schema", f"{what}: schema {OLDEST_SCHEMA} to {SCHEMA} expected")
    check_values("schema", what, head, {**rules, **newer_rules(what, schema)})


def newer_rules(what: str, schema: int) -> Mapping[str, Rule]:
    """Return the rules of the fields that a head (request, reply or refusal) has beyond those of schema 1."""
    since_3: Mapping[str, Rule] = {"receipt": RECEIPT} if what == "request" else {"seen": SEEN}
    return {**(_SINCE_2 if schema >= 2 else {}), **(since_3 if schema >= 3 else {})}


def check_refusal(head: Mapping[str, object]) -> None:
    """Hold a refusal's head against its rules; MessageError where it breaks one."""
    check_head("refusal", head, REFUSAL_HEAD)
    if head["text"] and head["refusal"] not in WORDED:
        raise MessageError("schema", "refusal: only a policy and secure aggregation may add a text of their own")


def check_metrics(metrics: Mapping[str, object]) -> None:
    """Hold a reply's metrics against the rules of their names and values; MessageError where one breaks them."""
    if len(metrics) > _MAX_METRICS:
        raise MessageError("schema", f"metrics: more than {_MAX_METRICS}")
    if not all(_METRIC_NAME.accepts(name) for name in metrics):
        raise MessageError("schema", f"metrics: a name is not {_METRIC_NAME.expected()}")
    if not all(_METRIC_VALUE.accepts(value) for value in metrics.values()):
        raise MessageError("schema", f"metrics: a value is not {_METRIC_VALUE.expected()}")
