"""What both ends hash into secure aggregation of the run and of the work behind one sum.

Each computes it from what it has in hand: a coordinator that sends two sites different models, tasks or specifications
gives them different hashes, and gets nothing from either.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from privacy.secagg.context import digest
from privacy.wire.messages import Request


def config_hash(asked: Request, plan: bytes = b"") -> bytes:
    """Hash of what a set-up is for: run, model and manifest of the request, and the pinned plan's hash, if any."""
    return digest("config", asked.run_id.encode(), asked.spec_json.encode(), asked.manifest_hash.encode(), plan)


def work_hash(asked: Request) -> bytes:
    """Hash of what a site is to work on for one sum: kind, model, task and shared vector."""
    task = "" if asked.task is None else json.dumps(asdict(asked.task), sort_keys=True)
    vector = memoryview(b"") if asked.vector is None else asked.vector.data.cast("B")
    head = (asked.kind, asked.spec_json, asked.manifest_hash, task)
    return digest("work", *(part.encode() for part in head), vector)


def session_of(asked: Request) -> bytes:
    """The session of a run: its id."""
    return bytes.fromhex(asked.run_id)
