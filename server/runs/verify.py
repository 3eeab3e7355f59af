"""`server verify`: an audit of a finished run, from the files in its folder and the transparency log. It asks nobody.

What it shows: the log only grew since each head that is given; roster, plan and published adapters are those in the
log; each round of the report is in the log with its sites; computed again from the saved sums, each round gives the
vector that the log names, the last one the adapter, and statistics the ranges in its card (verify_statistics.py). It
cannot show that a sum holds what the sites sent: for that the sites hold the log against what they did (`client
verify`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from privacy.dp.terms import SUMMED
from privacy.trust import certificates, signed
from privacy.trust.identity import read_input
from privacy.trust.public_log import ROUND, STATISTICS, RoundEntry, TreeHead
from server.config.run import RunConfig
from server.deployment.home import ServerHome
from server.record.history import RoundRecord
from server.record.journal import newest_state
from server.record.public_log import PublicLog, file_hash, number_hash
from server.rounds.advance import replayed
from server.runs.index import ADAPTER, REPORT, RunEntry, configuration, find
from server.runs.verify_statistics import Finding, statistics_findings
from shared_model.core.errors import InputError, naming
from shared_model.core.vector import Vector


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found: what holds, and what contradicts, each in words. ``root``: of the log as it is now."""

    run: str
    entries: int
    root: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the audit for a person."""
        return [
            f"run {self.run}, log of {self.entries} entries, root {self.root[:16]}",
            *(f"  {line}" for line in self.right),
            *(f"  CONTRADICTION: {line}" for line in self.wrong),
        ]


def audit(home: ServerHome, name: str | None, heads: Sequence[Path] = ()) -> Audit:
    """Audit the finished run ``name`` (default: the last one). ``heads``: files of heads that sites have kept.

    InputError where the run has not finished, or a file cannot be read.
    """
    run, log = find(home, name), home.public_log()
    report, config, run_id = _report(run), configuration(run.out), newest_state(run.out).run_id
    entries = log.entries()
    findings = [
        *_heads(home, log, heads),
        *_acts(home, entries, run),
        *statistics_findings(run, run_id, config, report, entries),
        *_rounds(run, run_id, config, report, entries),
    ]
    right = tuple(line for wrong, line in findings if not wrong)
    wrong = tuple(line for wrong, line in findings if wrong)
    return Audit(run=run.name, entries=log.size(), root=log.root(), right=right, wrong=wrong)


def _report(run: RunEntry) -> dict[str, Any]:
    path = run.out / REPORT
    if not path.is_file():
        raise InputError(f"{path}: no report; `server run --resume` finishes the run")
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected a run's report in JSON") from error
    return report


def _heads(home: ServerHome, log: PublicLog, files: Sequence[Path]) -> Iterator[Finding]:
    """Hold signed heads, ours and those that sites have kept, against the log as it is now."""
    signer = home.document_keys().kept()
    consortium = certificates.consortium_id(read_input(home.ca_certificate))
    for path in [*([log.kept_head] if log.kept_head.exists() else []), *files]:
        with naming(path):
            content = read_input(path)
            kept = [content] if path == log.kept_head else [_head_in(line) for line in content.splitlines()]
            found = [TreeHead.from_signed(head, signer, consortium) for head in kept]
        bad = [head.size for head in found if head.size > log.size() or log.root(head.size) != head.root]
        if bad:
            yield True, f"{path}: the log does not continue its head of {bad[0]} entries"
        else:
            yield False, f"{path}: {len(found)} signed heads, the log continues each"


def _head_in(line: bytes) -> bytes:
    try:
        return signed.pack(json.loads(line)["head"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError("expected heads as `client verify --heads` writes them") from error


def _acts(home: ServerHome, entries: Sequence[dict[str, Any]], run: RunEntry) -> Iterator[Finding]:
    """Hold roster, plan and published adapters against the acts in the log."""
    for what, key, path in (("roster", "roster", home.roster_file), ("plan", "plan", home.plan_file)):
        logged = [entry[key] for entry in entries if key in entry and entry["act"] not in (ROUND, STATISTICS)]
        if path.exists() and logged:
            same = file_hash(read_input(path)) == logged[-1]
            yield not same, f"{path.name} {'is' if same else 'is not'} the newest {what} in the log"
    adapter = run.out / ADAPTER
    own = hashlib.sha256(read_input(adapter)).hexdigest() if adapter.exists() else ""
    for entry in entries:
        if entry["act"] == "publish" and entry.get("run") == run.name:
            same = entry.get("adapter") == own
            yield not same, f"the adapter published on {entry['at'][:10]} {'is' if same else 'is not'} this run's"


def _rounds(
    run: RunEntry, run_id: str, config: RunConfig, report: dict[str, Any], entries: Sequence[dict[str, Any]]
) -> Iterator[Finding]:
    history = [RoundRecord.from_plain(record) for record in report["history"]]
    logged: dict[int, RoundEntry] = {}
    for line in entries:
        if line["act"] == ROUND and line.get("run") == run_id:
            logged[line["round"]] = RoundEntry.from_plain(line)
    missing = [record.round for record in history if record.round not in logged]
    if missing:
        yield True, f"round {missing[0]} is not in the log"
        return
    for before, after in pairwise(history):
        if logged[before.round].after != logged[after.round].before:
            yield True, f"round {after.round} does not begin where round {before.round} ended"
    for record in history:
        if set(record.sites) != set(logged[record.round].sites):
            yield True, f"round {record.round}: the report names other sites than the log"
    yield False, f"{len(history)} rounds are in the log"
    if config.privacy.mode in SUMMED or config.rounds.keep == "means":
        yield from _replayed(run, report, config, history, logged)
    else:
        yield False, "mode none saves no sums without rounds.keep=means, so the rounds cannot be computed again"


def _replayed(
    run: RunEntry,
    report: dict[str, Any],
    config: RunConfig,
    history: Sequence[RoundRecord],
    logged: dict[int, RoundEntry],
) -> Iterator[Finding]:
    """Compute the run again. Torch is slow to import, so only an audit of a run imports it."""
    from shared_model.adapter.manifest import initial_vector, load_adapter, stage_mask, vector_hash

    spec, adapter, _ = load_adapter(run.out / ADAPTER)
    initial: Vector = load_adapter(Path(config.initial))[1] if config.initial else initial_vector(spec)
    if history and number_hash(initial) != logged[history[0].round].before:
        yield True, "the run did not begin with the vector that its configuration names"
    found = initial
    for step in replayed(run.out, config, initial, partial(stage_mask, spec), history):
        entry, number = logged[step.record.round], step.record.round
        if step.kept.total is not None and number_hash(step.kept.total) != entry.sum:
            yield True, f"round {number}: the saved sum is not the one in the log"
        if set(step.kept.sites) != set(entry.sites):
            yield True, f"round {number}: the saved sum is over other sites than the log names"
        if number_hash(step.vector) != entry.after:
            yield True, f"round {number}: the sum does not give the vector in the log"
        found = step.adapter
    same = vector_hash(found) == vector_hash(adapter) == report["adapter_sha256"]
    yield not same, f"computed again from its sums, the run {'gives' if same else 'does not give'} this adapter"
