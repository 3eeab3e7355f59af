"""What a site's processes say about themselves, as `client status` and the screen of `client start` show it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from client.data.left_out import left_out
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.flower.heartbeat import last_beat
from privacy.flower.processes import is_running, read_state
from privacy.trust import certificates, identity
from shared_model.core.errors import InputError

EXECUTOR, SUPERNODE, START, CONSOLE = "executor", "supernode", "start", "console"
INSTANCE = "FEDKT3D_INSTANCE"  # in the executor's environment: which copy of the home this is
STALE_S = 90.0
SOON_DAYS = 30
SILENT_S = 60.0  # the executor beats every 2 s; as in client/node/watchdog.py
CLOCK_LIMIT_S = 3.0  # node authentication accepts a time up to 5 s ahead of the coordinator's


def status(home: ClientHome) -> dict[str, Any]:
    """Return what the site's processes last said, as `client status --json` prints it."""
    if is_running(home.lock):
        return current(home, read_state(home.state(START)))
    return {**_report(home, {}, {}, {}), "running": False}


def current(home: ClientHome, processes: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a running site; `processes` is what its supervisor knows of its processes."""
    return _report(home, read_state(home.state(SUPERNODE)), read_state(home.state(EXECUTOR)), processes)


def ill(home: ClientHome) -> str:
    """Return what is wrong with the site's processes, for a health check; empty where all give signs of life.

    A coordinator that is away does not make a site ill: a restart here would not bring it back.
    """
    report = status(home)
    if not report["running"]:
        return "client start does not run"
    beat = last_beat(home.beat(EXECUTOR))
    if beat is None or report["silent_s"] is None:
        return "its processes are starting"
    if report["silent_s"] > STALE_S:
        return f"no sign of life from the connection for {report['silent_s']:.0f} s"
    silent_s = time.time() - beat / 1e9
    return f"no sign of life from the executor for {silent_s:.0f} s" if silent_s > SILENT_S else ""


def hints(home: ClientHome, *, for_log: bool = False) -> list[str]:
    """Return in plain words what stands in the way of this site's work, or soon will, and what to do.

    ``for_log``: without data paths and case ids, which `client start` must not print: a service's screen is a log.
    """
    try:
        config, policy = SiteConfig.load(home.site_config), Policy.load(home.policy)
    except InputError as error:  # somebody edits the file just now
        return ["site.yaml or policy.yaml cannot be used; client status says why"] if for_log else [str(error)]
    found = []
    if not os.path.isdir(config.root):  # not Path.is_dir, which raises where a parent is closed to this user
        named = "of site.yaml" if for_log else str(config.root)
        found.append(f"the data folder {named} is not there: is its disk mounted?")
    if not config.train:
        found.append("site.yaml lists no training patient: every task of training will be refused")
    if policy.require_plan and not home.plan_file.exists():
        found.append(f"no plan is accepted, so every request is refused: client plan --home {home.folder}")
    if home.certificate.exists():
        days = (certificates.expires(identity.read_input(home.certificate)) - datetime.now(UTC)).days
        if days < SOON_DAYS:
            found.append(f"the site's certificate ends in {days} days; ask the coordinator: server renew {home.site}")
    cases = left_out(home.folder)
    if cases and for_log:
        found.append(f"{len(cases)} cases are left out because they cannot be read; client status names them")
    elif cases:
        found.append("left out because they cannot be read: " + "; ".join(sorted(cases)))
    return found


def _report(
    home: ClientHome, supernode: dict[str, Any], executor: dict[str, Any], processes: dict[str, Any]
) -> dict[str, Any]:
    # Not by its time: the machine's clock may be set back by hours while the site runs.
    if supernode.get("pid") != (processes.get(SUPERNODE) or {}).get("pid"):
        supernode = {"node_id": supernode.get("node_id")}  # what an earlier start wrote
    alive = supernode.get("alive")
    return {
        "silent_s": None if alive is None else max(0.0, round(time.time() - alive, 1)),
        "hints": hints(home) if processes.get("hints") is None else processes["hints"],
        "site": home.site,
        "server": home.server,
        "running": True,
        "connection": supernode.get("connection", "none"),
        "connection_since": supernode.get("since"),
        "connection_why": supernode.get("why", ""),
        "node_id": supernode.get("node_id"),
        "clock_offset_s": supernode.get("clock_offset_s"),
        "executor": executor,
        "last_refusal": executor.get("last_refusal"),
        "processes": processes,
    }


def describe(report: dict[str, Any]) -> str:
    """Return the one-line state of a site from `status`."""
    if not report["running"]:
        return f"{report['site']}: not running" + _hints(report)
    executor = report["executor"]
    task = executor.get("task") or {}
    doing = executor.get("state", "starting")
    if task:
        doing = f"{task.get('kind', 'task')} of round {task['round']}" if task.get("round") else task.get("kind", "")
    done, failed = executor.get("tasks_done", 0), executor.get("tasks_failed", 0)
    parts = [_connection(report), doing, f"{done} tasks done, {failed} failed", _refusal(report), _clock(report)]
    return f"{report['site']}: " + " | ".join(filter(None, parts)) + _hints(report)


def _hints(report: dict[str, Any]) -> str:
    return "".join(f"\n  {hint}" for hint in report.get("hints", ()))


def _connection(report: dict[str, Any]) -> str:
    server = report["server"]
    since = report["connection_since"]
    when = datetime.fromtimestamp(since).strftime(" since %d %b %H:%M") if since else ""
    if (report.get("silent_s") or 0.0) > STALE_S:
        return f"no sign of life from the connection for {report['silent_s']:.0f} s"
    if report["connection"] == "refused":
        return f"turned away by {server}{when}: is the site admitted, and is its clock right?"
    words = {"connected": f"connected to {server}{when}", "retrying": f"no connection to {server}{when}, trying again"}
    text = words.get(report["connection"], f"connecting to {server}")
    text += f": {report['connection_why']}" if report.get("connection_why") else ""
    restarts = report["processes"].get(SUPERNODE, {}).get("restarts", 0)
    if report["node_id"] is None and restarts > 0:  # the coordinator has never let it in
        text += " (is the site admitted? are its CA and clock right? see logs/supernode.log)"
    return text


def _refusal(report: dict[str, Any]) -> str:
    last = report["last_refusal"]
    if not last:
        return ""
    reason = last.get("text") or last.get("code")
    return f"last refused: {last.get('kind')} of round {last.get('round')} ({reason})"


def _clock(report: dict[str, Any]) -> str:
    offset = report["clock_offset_s"]
    if offset is None or abs(offset) <= CLOCK_LIMIT_S:
        return ""
    ahead = "ahead of" if offset > 0 else "behind"
    return f"this clock is {abs(offset):.0f} s {ahead} the coordinator's: set up NTP"
