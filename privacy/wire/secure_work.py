"""The hashes of the run and of the work behind one sum, which both ends put into secure aggregation.

Each end computes them from what it has itself. A coordinator that sends two sites different models, tasks or
specifications gives them different hashes, and then it gets nothing from either.
"""

from __future__ import annotations

import json

from privacy.secagg.context import digest
from privacy.wire.messages import Request
from privacy.wire.tasks import sent_fields

# Kinds of work whose sums have a session beside that of the rounds.
_SESSIONS = {"evaluate": "scores", "statistics": "statistics"}


def config_hash(asked: Request, plan: bytes = b"") -> bytes:
    """Return the hash of what a set-up is for: the request's run, model and manifest, and the pinned plan's hash."""
    return digest("config", asked.run_id.encode(), asked.spec_json.encode(), asked.manifest_hash.encode(), plan)


def work_hash(asked: Request) -> bytes:
    """Return the hash of a site's work for one sum: kind, model, task and shared vector."""
    task = "" if asked.task is None else json.dumps(sent_fields(asked.task), sort_keys=True)
    vector = memoryview(b"") if asked.vector is None else asked.vector.data.cast("B")
    head = (asked.kind, asked.spec_json, asked.manifest_hash, task)
    return digest("work", *(part.encode() for part in head), vector)


def session_of(asked: Request, kind: str = "train") -> bytes:
    """Return the session of a run's sums of one kind of work: the run's id as bytes, or for other work a hash of it.

    Scores and statistics have sessions of their own, because their sums have another length and come between those of
    the rounds.
    """
    run, word = bytes.fromhex(asked.run_id), _SESSIONS.get(kind)
    return run if word is None else digest(word, run)[: len(run)]
