"""What each site was charged, against what it released: read from `ledger.jsonl` and the run's own report.

A site pays for each answer to an attempt. So a round may be charged as often as it was tried (docs/operations.md, "When
a release is paid twice"); a charge beyond that would be one without a release.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SiteCharges:
    """One site: charges in its ledger, rounds whose sum it is in, rounds charged more than once (as the runbook says,
    since the round was tried again), and those that were charged more often than they were tried."""

    site: str
    charges: int
    in_sums: int
    again: int
    unexplained: tuple[int, ...]


def charges(folder: Path) -> Counter[int]:
    """Return how often each round was charged, from the ledger in ``folder``."""
    path = folder / "ledger.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return Counter(int(json.loads(line)["round"]) for line in lines)


def tries(events: list[dict[str, Any]]) -> Counter[int]:
    """Return how often each round was begun; a start that was killed in between counts."""
    return Counter(int(event["round"]) for event in events if event["kind"] == "round_started")


def sums(events: list[dict[str, Any]], report: Mapping[str, Any]) -> list[set[str]]:
    """Return the sites in each round's sum: as federation.json says, or the events where the run did not end.

    A sum that the coordinator had kept when it was killed has no site in the events.
    """
    if "history" in report:
        return [set(entry["sites"]) for entry in report["history"]]
    found: list[set[str]] = []
    sites: set[str] = set()
    for event in events:
        if event["kind"] == "round_started":
            sites = set()
        elif event["kind"] == "site_done":
            sites.add(event["site"])
        elif event["kind"] == "round_done":
            found.append(sites)
    return found


def account(site: str, charged: Mapping[int, int], tried: Mapping[int, int], in_sums: list[set[str]]) -> SiteCharges:
    """Return the account of ``site``. ``in_sums``: the sites of each round's sum."""
    return SiteCharges(
        site=site,
        charges=sum(charged.values()),
        in_sums=sum(site in sites for sites in in_sums),
        again=sum(count > 1 for count in charged.values()),
        unexplained=tuple(sorted(number for number, count in charged.items() if count > tried.get(number, 0))),
    )
