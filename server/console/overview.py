"""What the console knows of the coordinator: processes, sites, runs, certificates, disk, the log's head.

Files are read at each look. The SuperLink is asked in a thread of its own and seldom, since each question starts a
program: the page shows the last answer and how old it is.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.agreement.federation_plan import FederationPlan, plan_hash
from privacy.dp.accountant import epsilon, profile
from privacy.flower.processes import read_state
from privacy.trust import certificates
from server.console.run_view import RunView, RunViews
from server.consortium.admission import Admissions
from server.deployment import start as coordinator
from server.deployment.control import Control
from server.deployment.home import ServerHome
from server.record.journal import in_use
from server.record.patient_counts import PatientCounts
from server.runs import index as runs
from shared_model.core.errors import FedKT3DError

ASK_S = 15.0
RUNS_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class SiteLine:
    """One admitted or invited site. ``until``: the end of its certificate or its invitation."""

    name: str
    status: str
    node_id: str = ""
    until: str = ""
    ends_soon: bool = False


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run: the last start in its folder."""

    name: str
    run_id: str
    status: str
    view: RunView


@dataclass
class Overview:
    """The coordinator in ``home``."""

    home: ServerHome
    views: RunViews = field(default_factory=RunViews)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = False
        self._asked_at = 0.0
        self._next = 0.0
        self._nodes: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._budgets: dict[str, tuple[int, dict[str, Any]]] = {}  # run id -> attempts then, budget
        self._log = self.home.public_log()  # kept: it reads only what was added
        self._log_read = 0
        self._published: list[tuple[str, str]] = []

    def look(self) -> dict[str, Any]:
        """Return what the pages show."""
        processes = coordinator.processes(self.home)
        ready = bool(processes.get("ready"))
        if ready:
            self._ask()
        return {
            "name": self.home.name,
            "address": self.home.address,
            "state": "ready for sites" if ready else "starting" if processes else "not running",
            "processes": {name: told for name, told in processes.items() if isinstance(told, dict)},
            "asked_at": self._asked_at if ready else 0.0,
            "sites": self.sites(ready),
            "waiting": self.waiting(),
            "runs": self.run_lines(),
            "tls_until": self._until(self.home.tls_certificate.read_bytes()),
            "disk_free_gb": shutil.disk_usage(self.home.folder).free / 1e9,
            "log": {"size": self._log.size(), "root": self._log.root()} if self._log.path.exists() else None,
            "plan": self.plan(),
        }

    def sites(self, ready: bool) -> list[SiteLine]:
        """Return admitted sites, then those that are invited."""
        known, found = read_state(self.home.sites_file), []
        for name, site in sorted(known.items()):
            path = self.home.site_certificate(name)
            until, soon = self._until(path.read_bytes()) if path.exists() else ("", True)
            status = self._nodes.get(site["node_id"], "unknown") if ready else "unknown"
            found.append(SiteLine(name=name, status=status, node_id=site["node_id"], until=until, ends_soon=soon))
        for name, invited in sorted(read_state(self.home.invitations_file).items()):
            found.append(SiteLine(name=name, status="invited", until=str(invited["expires"])[:10]))
        return found

    def waiting(self) -> list[dict[str, str]]:
        """Return the sites whose request came by a link and waits, with the digits of its key."""
        admissions, found = Admissions(self.home), []
        for site in self.home.waiting():
            try:
                digits = admissions.digits(admissions.request(site))
            except FedKT3DError:
                continue  # admitted or invited anew at this moment
            found.append({"name": site, "digits": digits})
        return found

    def run_lines(self) -> list[RunLine]:
        """Return the runs, newest first."""
        last = {entry.out: entry for entry in runs.entries(self.home)}
        return [self._run(entry) for entry in list(last.values())[::-1][:RUNS_SHOWN]]

    def run(self, name: str) -> RunLine | None:
        """Return the newest run of that name."""
        return next((line for line in self.run_lines() if line.name == name), None)

    def plan(self) -> dict[str, Any] | None:
        """Return the signed plan in words, or why it cannot be read; None where there is none."""
        if not self.home.plan_file.exists():
            return None
        content = self.home.plan_file.read_bytes()
        try:
            plan: FederationPlan = Admissions(self.home).plan(content)
        except FedKT3DError as error:
            return {"name": "", "sha256": plan_hash(content), "words": [str(error)]}
        return {"name": plan.name, "sha256": plan_hash(content), "words": plan.in_words()}

    def budget(self, line: RunLine) -> dict[str, Any] | None:
        """Return what the run's steps so far cost a patient, of what it may cost; None without noise."""
        attempts, found = self._budgets.get(line.run_id, (-1, {}))
        if attempts != line.view.attempts:
            attempts, found = line.view.attempts, _spent(line.view.out, line.view.attempts)
            self._budgets[line.run_id] = attempts, found
        return found or None

    def lineage(self, line: RunLine) -> list[tuple[str, str]]:
        """Return where the run's adapter comes from and went: (what, hash or name)."""
        config = runs.configuration(line.view.out)
        told = [("started from", str(config.initial) or "the model's own start")]
        report = line.view.out / runs.REPORT
        if report.is_file():
            told.append(("adapter", str(json.loads(report.read_text(encoding="utf-8"))["adapter_sha256"])))
        published = [sha256 for run, sha256 in self._publications() if run == line.name]
        return told + [("published, file", sha256) for sha256 in published]

    def _publications(self) -> list[tuple[str, str]]:
        """Return what was published: (run, the file's hash). Only what the log has beyond the last look is read."""
        for entry in self._log.entries(since=self._log_read):
            self._log_read += 1
            if entry.get("act") == "publish":
                self._published.append((str(entry.get("run", "")), str(entry.get("adapter", ""))))
        return self._published

    def _run(self, entry: runs.RunEntry) -> RunLine:
        view = self.views.of(entry.out)
        status = self._states.get(entry.run_id, "")
        if (entry.out / runs.REPORT).exists() and view.finished:
            status = "finished"
        elif not status:
            status = "running" if in_use(entry.out) else "not running"
        shown = status.removeprefix("finished:").replace("completed", "finished")
        return RunLine(name=entry.name, run_id=entry.run_id, status=shown, view=view)

    def _until(self, certificate: bytes) -> tuple[str, bool]:
        ends = certificates.expires(certificate)
        return ends.date().isoformat(), ends - dt.datetime.now(dt.UTC) < coordinator.TLS_WARNING

    def _ask(self) -> None:
        """Have the SuperLink asked, unless that is under way or was done just now."""
        with self._lock:
            if self._asking or time.monotonic() < self._next:
                return
            self._asking = True
        threading.Thread(target=self._ask_now, daemon=True).start()

    def _ask_now(self) -> None:
        try:
            control = Control(self.home)
            nodes = {str(node["node-id"]): str(node["status"]) for node in control.nodes()}
            states = {str(run["run-id"]): str(run["status"]) for run in control.runs()}
            self._nodes, self._states, self._asked_at = nodes, states, time.time()
        except FedKT3DError:
            pass  # it stopped or failed at this moment; the page shows how old the last answer is
        finally:
            with self._lock:
                self._asking, self._next = False, time.monotonic() + ASK_S


def _spent(out: Path, attempts: int) -> dict[str, Any]:
    from server.config.privacy import releases, run_terms, statistics_terms

    config = runs.configuration(out)
    try:
        terms, counts, asked = run_terms(config), statistics_terms(config), PatientCounts.read(out)
    except FedKT3DError:
        return {}
    now, most = [], []
    if counts is not None:
        now += [counts.charge(asked.asked)] if asked is not None else []
        most.append(counts.charge())
    if terms is not None:
        now += [terms.charge(attempts * releases(config))] if attempts else []
        most.append(terms.charge(terms.steps))
    if not most:
        return {}
    delta = config.privacy.delta
    spent, of = (epsilon(profile(charges), delta) if charges else 0.0 for charges in (now, most))
    done, planned = (sum(charge.count for charge in charges) for charges in (now, most))
    return {"epsilon": spent, "of": of, "delta": delta, "releases": done, "most": planned}
