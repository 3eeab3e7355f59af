"""What the site's page shows. Files are read at each look; what is costly to check is kept until its files change."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from client.commands.verify import OwnVerdict, verdicts
from client.console.alignments import alignment_files, own_alignments
from client.node.asked import read_asked
from client.node.status import describe, status
from client.setup import agree
from client.site.budget import BudgetReport, budget_report
from client.site.home import ClientHome
from client.site.policy import Policy
from client.site.predictions import noted_predictions
from client.site.seen_log import SeenLog
from privacy.flower.processes import read_state
from privacy.trust import certificates, identity
from shared_model.core.errors import FedKT3DError, InputError

_T = TypeVar("_T")
_LINES = 50  # shown of a list


class _Unless(Generic[_T]):
    """A value that is made anew when one of ``files`` (or a file in a folder of them) has changed."""

    def __init__(self, make: Callable[[], _T], files: Callable[[], Sequence[Path]]) -> None:
        self._make, self._files = make, files
        self._stamp: tuple[object, ...] | None = None
        self._value: _T | str = ""

    def get(self) -> _T | str:
        """Return it, or in words why it cannot be told."""
        stamp = tuple(part for path in self._files() for part in _stamps(path))
        if stamp != self._stamp:
            try:
                self._value = self._make()
            except FedKT3DError as error:
                self._value = str(error)
            self._stamp = stamp
        return self._value


def _stamps(path: Path) -> list[object]:
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    found: list[object] = []
    for each in paths:
        try:
            stat = each.stat()
        except OSError:
            continue
        found.append((str(each), stat.st_mtime_ns, stat.st_size))
    return found


@dataclass(frozen=True, kw_only=True)
class ReceiptsView:
    """The coordinator's log as this site knows it, and what it says of the site's own rounds, newest first."""

    heads: int
    entries: int
    root: str
    refused: int
    rounds: tuple[OwnVerdict, ...]


class SiteOverview:
    """The site in ``home``."""

    def __init__(self, home: ClientHome) -> None:
        self.home = home
        trust = home.folder / "trust"
        self._receipts = _Unless(lambda: _receipts(home), lambda: [home.folder / "state" / "log", home.roster_file])
        self._budget = _Unless(lambda: budget_report(home), lambda: [home.policy, trust, _ledger(home)])
        self._aligned = _Unless(lambda: own_alignments(home), lambda: alignment_files(home))
        self._plan = _Unless(lambda: _plan(home), lambda: [trust, home.policy])

    def look(self) -> dict[str, Any]:
        """Return what changes while the site works."""
        report = status(self.home)
        budget, receipts = self._budget.get(), self._receipts.get()
        return {
            "site": self.home.site,
            "consortium": f"{self.home.name} ({self.home.consortium})",
            "running": report["running"],
            "connection": report.get("connection", "none") if report["running"] else "not running",
            "state": describe(report).splitlines()[0].partition(": ")[2],
            "hints": report["hints"],
            "certificate": self._certificate(),
            "asked": read_asked(self.home.state("asked"))[:_LINES],
            "budget": budget if isinstance(budget, BudgetReport) else None,
            "budget_fault": budget if isinstance(budget, str) else "",
            "receipts": receipts if isinstance(receipts, ReceiptsView) else None,
            "receipts_fault": receipts if isinstance(receipts, str) else "",
            "alignments": self._aligned.get(),
            "predictions": noted_predictions(self.home)[:_LINES],
            "offer": self.offer(),
        }

    def offer(self) -> str:
        """Return the hash of a plan that waits for a decision here; empty where none does."""
        plan = self.plan()
        waits = plan is not None and plan.get("sha256") and not plan["pinned"] and not plan["declined"]
        return str(plan["sha256"]) if plan is not None and waits else ""

    def plan(self) -> dict[str, Any] | None:
        """Return the newest plan in words with the peers' digits; None where there is none."""
        found = self._plan.get()
        return {"fault": found} if isinstance(found, str) else found

    def report(self) -> dict[str, Any] | None:
        """Return what `client check --home` found last; None where it has not run."""
        return read_state(self.home.state("check")) or None

    def _certificate(self) -> str:
        if not self.home.certificate.exists():
            return "not admitted yet"
        try:
            return certificates.expires(identity.read_input(self.home.certificate)).date().isoformat()
        except InputError:
            return "cannot be read"


def moment(seconds: object) -> str:
    """Return a time as this machine's clock shows it; empty for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return ""
    try:
        return dt.datetime.fromtimestamp(seconds).strftime("%d %b %Y %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return ""


def _ledger(home: ClientHome) -> Path:
    try:
        return Policy.load(home.policy).ledger_in(home.folder).folder
    except InputError:
        return home.policy


def _receipts(home: ClientHome) -> ReceiptsView:
    log = SeenLog(home)
    heads = log.heads()
    rounds = verdicts(log.own_rounds(), log.proven(heads), home.site)
    newest = heads[-1] if heads else None
    return ReceiptsView(
        heads=len(heads),
        entries=newest.size if newest else 0,
        root=newest.root if newest else "",
        refused=log.refused(),
        rounds=tuple(rounds[::-1][:_LINES]),
    )


def _plan(home: ClientHome) -> dict[str, Any] | None:
    shown = agree.newest_plan(home)
    if shown is None:
        return None
    policy = Policy.load(home.policy)
    return {
        "fault": "",
        "name": shown.plan.name,
        "sha256": shown.sha256,
        "words": shown.plan.in_words(),
        "pinned": shown.pinned,
        "declined": agree.is_declined(home, shown.sha256),
        "differs": shown.differences(),
        "peers": agree.peers_of(home, shown.plan),
        "must_compare": policy.known_peers and shown.plan.mode != "none",
        "mode": shown.plan.mode,
        "mode_allowed": shown.plan.mode in policy.modes,
        "modes": ", ".join(policy.modes),
    }
