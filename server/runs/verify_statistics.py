"""The part of `server verify` that holds a run's statistics, and the ranges published from them, against the log.

The counts are decoded from the saved sum a second time, and the ranges read from them again. What the log names, what
the run's folder holds and what was published must all be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from privacy.trust.public_log import STATISTICS, StatisticsEntry
from server.config.privacy import statistics_terms
from server.config.run import RunConfig
from server.record.patient_counts import FILE, PatientCounts
from server.record.public_log import number_hash, plain_hash
from server.rounds.kept_sums import BEFORE, KeptSum, read_sum
from server.rounds.patient_counts import counted
from server.runs.index import ADAPTER, RunEntry
from shared_model.core.errors import FedKT3DError

Line = Mapping[str, Any]
Finding = tuple[bool, str]  # whether it is a contradiction, and in words


def statistics_findings(
    run: RunEntry, run_id: str, config: RunConfig, report: Line, entries: Sequence[Line]
) -> Iterator[Finding]:
    """Compute a run's statistics again; hold them against the log, the run's folder and what was published."""
    logged = [line for line in entries if line["act"] == STATISTICS and line.get("run") == run_id]
    ranges = _ranges_in_card(run)
    if statistics_terms(config) is None:
        if logged:
            yield True, "statistics: the log has some, and the run's configuration asks for none"
        elif ranges is not None:
            yield False, "statistics: there were none; where the card's ranges come from, nothing here shows"
        return
    if not logged:
        known = PatientCounts.read(run.out)
        if ranges is not None or known is None or known.counts:
            yield True, "statistics: they are not in the log"
        else:
            yield False, f"statistics: there are none, and the card has no ranges ({known.failed})"
        return
    entry, kept = StatisticsEntry.from_plain(logged[-1]), read_sum(run.out, BEFORE)
    if kept is None or kept.total is None or kept.run_id != run_id:
        yield True, "statistics: their sum is not here, so they cannot be computed again"
    elif number_hash(kept.total) != entry.sum:
        yield True, "statistics: the saved sum is not the one in the log"
    else:
        yield from _computed_again(run, config, report, entries, entry, kept, ranges)


def _computed_again(
    run: RunEntry,
    config: RunConfig,
    report: Line,
    entries: Sequence[Line],
    entry: StatisticsEntry,
    kept: KeptSum,
    published: Line | None,
) -> Iterator[Finding]:
    if set(kept.sites) != set(entry.sites):
        yield True, "statistics: the saved sum is over other sites than the log names"
    stated = report["privacy"].get("statistics", {}).get("releases")
    if not kept.attempt == entry.attempt == stated:
        yield True, f"statistics: sites were asked {entry.attempt} times by the log, {stated} times by the report"
    try:
        counts = counted(config, kept)
    except FedKT3DError as error:
        yield True, f"statistics: the saved sum cannot be read by this run's terms ({error})"
        return
    if counts != PatientCounts.read(run.out):
        yield True, f"statistics: the sum does not give the counts in {FILE}"
    ranges = counts.trained_on(config.privacy.cohort)
    assert ranges is not None
    found = plain_hash(ranges)
    if found != entry.trained_on:
        yield True, "statistics: the sum does not give the ranges that the log names"
    for line in entries:
        if line["act"] == "publish" and line.get("run") == run.name and line.get("trained_on") != found:
            yield True, f"statistics: the sum does not give the ranges that were published on {line['at'][:10]}"
    differences = list(_differences(ranges, published or {}))
    for said in differences:
        yield True, f"statistics: {said}"
    if not differences:
        yield False, f"statistics: computed again from the sum of {len(kept.sites)} sites, they give the card's ranges"


def _ranges_in_card(run: RunEntry) -> Line | None:
    """Return ``trained_on`` of the run's card; None where it has none."""
    from shared_model.adapter.manifest import load_adapter

    found: Line | None = load_adapter(run.out / ADAPTER)[2].get("trained_on")
    return found


def _differences(computed: Line, card: Line) -> Iterator[str]:
    """Say in words where the card's ranges are not those computed."""
    wanted, found = _flat(computed), _flat(card)
    for key in sorted({*wanted, *found}):
        if wanted.get(key) != found.get(key):
            yield f"{key}: the card has {_said(found.get(key))}, the sum gives {_said(wanted.get(key))}"


def _flat(trained_on: Line) -> dict[str, Any]:
    """Return the ranges beside the other entries, lists for tuples: the card has been through JSON."""
    ranges = trained_on.get("ranges")
    flat = {**trained_on, **(ranges if isinstance(ranges, Mapping) else {"ranges": ranges})}
    if isinstance(ranges, Mapping):
        del flat["ranges"]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
