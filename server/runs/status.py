"""What `server status` shows: processes, sites and runs, whether or not the coordinator runs."""

from __future__ import annotations

from typing import Any

from privacy.flower.processes import read_state
from server.deployment import start as coordinator
from server.deployment.control import Control
from server.deployment.home import ServerHome
from server.runs import index as runs
from server.runs.failure import read_failure
from shared_model.core.errors import FedKT3DError

SHOWN = 20  # runs, the latest


def report(home: ServerHome) -> dict[str, Any]:
    """Return the state as `server status --json` prints it. If the coordinator is busy, some states are "unknown"."""
    processes = coordinator.processes(home)
    known = read_state(home.sites_file)
    nodes: dict[str, str] = {}
    states: dict[str, tuple[str, str]] = {}
    if processes.get("ready"):
        try:
            control = Control(home)
            nodes = {node["node-id"]: node["status"] for node in control.nodes()}
            states = {run["run-id"]: (run["status"], _details(run)) for run in control.runs()}
        except FedKT3DError:
            pass  # it stopped or failed at this moment
    return {
        "home": str(home.folder),
        "address": f"{home.host}:{home.port}",
        "running": bool(processes),
        "ready": bool(processes.get("ready")),
        "processes": processes,
        "sites": {
            name: {"node_id": site["node_id"], "status": nodes.get(site["node_id"], "unknown")}
            for name, site in known.items()
        },
        "waiting": home.waiting(),
        "runs": _runs(runs.entries(home)[-SHOWN:], states, running=bool(processes)),
    }


def _runs(entries: list[runs.RunEntry], states: dict[str, tuple[str, str]], *, running: bool) -> list[dict[str, Any]]:
    """Describe each start. The folder of several starts tells of the last one alone."""
    last = {entry.out: entry.run_id for entry in entries}
    return [
        _run(entry, states, running=running)
        if last[entry.out] == entry.run_id
        else _earlier(entry, last[entry.out], states.get(entry.run_id, ("ended", ""))[0])
        for entry in entries
    ]


def _earlier(entry: runs.RunEntry, later: str, status: str) -> dict[str, Any]:
    """Describe a start that a later one continued: what the folder tells is the later one's."""
    told = {"run_id": entry.run_id, "name": entry.name, "status": status, "reason": f"went on as {later}"}
    return {**told, "round": None, "rounds": None, "sites": [], "dropped": {}, "out": str(entry.out)}


def _details(run: dict[str, Any]) -> str:
    """Return why a run ended as it did. Flower writes N/A when it has no reason."""
    details = str(run.get("status-details") or "")
    return "" if details == "N/A" else details


def _run(entry: runs.RunEntry, states: dict[str, tuple[str, str]], *, running: bool) -> dict[str, Any]:
    found = runs.progress(entry.out)
    status, details = states.get(entry.run_id, ("unknown", ""))
    if status == "unknown" and not (running and found["active"]):
        status = "finished:completed" if (entry.out / runs.REPORT).exists() else "not running"
    error = read_failure(details)
    told = {key: found[key] for key in ("round", "rounds", "sites", "dropped")}
    reason = str(error) if error is not None else " ".join(details.split()) or found["stopped"]
    return {
        "run_id": entry.run_id,
        "name": entry.name,
        "status": status,
        "reason": reason,
        **told,
        "out": str(entry.out),
    }


def lines(record: dict[str, Any]) -> list[str]:
    """Return the record as lines for a screen."""
    state = "ready" if record["ready"] else "starting" if record["running"] else "not running"
    text = [f"coordinator on {record['address']}: {state}"]
    text += [f"  site {name}: {site['status']}" for name, site in record["sites"].items()]
    text += [f"  site {name}: waits to be admitted: server admit {name}" for name in record["waiting"]]
    for run in record["runs"]:
        line = f"  run {run['name']} ({run['run_id']}): {run['status']}"
        line += f", round {run['round']} of {run['rounds']}" if run["rounds"] is not None else ""
        line += f", sites {', '.join(run['sites'])}" if run["sites"] else ""
        line += "".join(f", {site} {reason}" for site, reason in run["dropped"].items())
        text.append(line + (f" - {run['reason']}" if run["reason"] else ""))
    return text
