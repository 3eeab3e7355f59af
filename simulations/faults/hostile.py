"""What a hostile coordinator may ask of a site, and what the site answers: always a refusal, never an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import ConfigRecord, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from privacy.secagg.exact_sums import MaskTerms
from privacy.wire.messages import Request, TrainTask, parse_reply, request
from shared_model.core.vector import Vector
from simulations.engine.local_grid import LocalGrid
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON

_TASK = TrainTask(round=1, rounds=1, local_steps=1, batch_size=1, lr=0.1, seed=0)
_MASKED = MaskTerms(sites=3, survivors=3, colluders=1, cohort=12, weighting="patients", bound=100.0).to_json()


def _asked(vector: Vector, **changes: object) -> RecordDict:
    whole = Request(
        kind="train", run_id="0" * 32, spec_json=SPEC_JSON, manifest_hash=MANIFEST_HASH, task=_TASK, vector=vector
    )
    return request(replace(whole, **changes))  # type: ignore[arg-type]


def _with(content: RecordDict, record: str, **values: object) -> RecordDict:
    there = content.get(record)
    content[record] = ConfigRecord({**(there if isinstance(there, ConfigRecord) else {}), **values})  # type: ignore[dict-item]
    return content


def requests(vector: Vector) -> Mapping[str, RecordDict]:
    """Each hostile request by what it is, for a model of ``vector`` (d,)."""
    bad = vector.copy()
    bad[0] = np.nan
    make: Mapping[str, Callable[[], RecordDict]] = {
        "a model that is not installed": lambda: _asked(vector, manifest_hash="f" * 64),
        "a vector of another length": lambda: _asked(np.zeros(vector.size + 1, np.float32)),
        "a vector that is not finite": lambda: _asked(bad),
        "a record that the schema does not know, such as code": lambda: _with(_asked(vector), "code", text="import os"),
        "more steps than the schema allows": lambda: _with(_asked(vector), "task", local_steps=10**9),
        "a field that tasks do not have": lambda: _with(_asked(vector), "task", read_file="/etc/passwd"),
        "a round after the last one": lambda: _with(_asked(vector), "task", round=2),
        "the bare update of a run under masks": lambda: _asked(vector, task=replace(_TASK, masks=_MASKED)),
    }
    return {what: of() for what, of in make.items()}


def answers(app: ClientApp, node: UserConfig, contents: Mapping[str, RecordDict]) -> Sequence[tuple[str, str]]:
    """Send each request to one site; returns (what, answer): a refusal's code, or that an update left the site."""
    found = []
    with LocalGrid(app, [node]) as grid:
        for what, content in contents.items():
            (target,) = grid.get_node_ids()
            replies = list(
                grid.send_and_receive([grid.create_message(content, "train", target, "1", 60.0)], timeout=60.0)
            )
            if not replies or not replies[0].has_content():
                found.append((what, "no answer"))
                continue
            told = parse_reply(replies[0].content)
            found.append((what, f"refused: {told.refusal.code}" if told.refusal else "AN UPDATE LEFT THE SITE"))
    return found
