"""`server`: the coordinator's command.

`server init DIR` once, `server start --home DIR` for as long as the federation lives, `server register` for each site,
`server run` for each run.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from privacy import identity
from privacy.processes import read_state, write_state
from server import coordinator, home
from server.compose import compose_run
from server.control import Control
from server.home import ServerHome
from server.run import default_out
from server.run import run as run_federation
from server.show import Progress, outcome_record, rounds_table
from shared_model.command import run_command
from shared_model.errors import InputError

app = typer.Typer(
    name="server", help="The coordinator of a federation.", no_args_is_help=True, pretty_exceptions_enable=False
)

Home = Annotated[Path, typer.Option("--home", help="The coordinator's folder, made by `server init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for keys, state and results.")],
    host: Annotated[str, typer.Option(help="Address to listen on for sites.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on for sites.")] = 9092,
    control_port: Annotated[int, typer.Option(help="Local control channel; 0: PORT + 1.")] = 0,
    address: Annotated[
        list[str] | None, typer.Option(help="Further name or IP by which sites reach this machine; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a coordinator: the consortium's CA, a TLS certificate, secrets, folders. Never overwrites."""
    made = home.create(folder, host, port, control_port or port + 1, address or [])
    record = {"home": str(made.folder), "ca": str(made.ca_certificate), "address": f"{made.host}:{made.port}"}
    lines = [
        f"coordinator in {made.folder}",
        f"  give every site: {made.ca_certificate}",
        f"  next: server start --home {folder}",
    ]
    _print(record if as_json else lines)


@app.command()
def start(home_folder: Home) -> None:
    """Run the coordinator until SIGTERM or Ctrl-C."""
    coordinator.start(ServerHome.load(home_folder), lambda line: print(line, flush=True))


@app.command()
def register(
    home_folder: Home,
    public_key: Annotated[Path, typer.Argument(help="SITE.pub from `client init`.")],
    as_json: AsJson = False,
) -> None:
    """Let a site in: register its node key."""
    server = ServerHome.load(home_folder)
    key = identity.read_node_public_key(public_key)
    sites = read_state(server.sites_file)
    name = public_key.stem
    if any(site["public_key"] == key.decode() for site in sites.values()):
        raise InputError(f"{public_key}: this key is registered already")
    if name in sites:
        raise InputError(f"{public_key}: a site named {name} is registered already with another key")
    node_id = Control(server).register(public_key.resolve())
    record = {
        "node_id": node_id,
        "public_key": key.decode(),
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_state(server.sites_file, {**sites, name: record})
    _print({"site": name, **record} if as_json else [f"{name}: registered as node {node_id}"])


@app.command()
def run(
    home_folder: Home,
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, such as rounds.count=3.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/NAME in the home.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the composed configuration and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a federation with the sites that are connected; the same folder and configuration resume a stopped run."""
    config = compose_run(overrides or [])
    if show:
        _print(json.loads(config.to_json()))
        return
    server = ServerHome.load(home_folder)
    target = (out or default_out(server, config)).resolve()
    console = Console(stderr=as_json)
    with Progress(console) as progress:
        outcome = run_federation(server, config, target, progress.event)
    if as_json:
        _print(outcome_record(outcome))
        return
    console.print(rounds_table(outcome.report))
    console.print(f"adapter: {outcome.adapter}", soft_wrap=True)


@app.command()
def status(home_folder: Home, as_json: AsJson = False) -> None:
    """Say whether the coordinator runs, and which sites and runs it knows."""
    server = ServerHome.load(home_folder)
    processes = coordinator.processes(server)
    known = read_state(server.sites_file)
    record: dict[str, Any] = {
        "home": str(server.folder),
        "address": f"{server.host}:{server.port}",
        "running": bool(processes),
        "ready": bool(processes.get("ready")),
        "processes": processes,
        "sites": {name: {"node_id": site["node_id"], "status": "unknown"} for name, site in known.items()},
        "runs": [],
    }
    if record["ready"]:
        control = Control(server)
        states = {node["node-id"]: node["status"] for node in control.nodes()}
        for site in record["sites"].values():
            site["status"] = states.get(site["node_id"], "unregistered")
        record["runs"] = [{"run_id": r["run-id"], "status": r["status"]} for r in control.runs()]
    state = "ready" if record["ready"] else "starting" if record["running"] else "not running"
    lines = [f"coordinator on {record['address']}: {state}"]
    lines += [f"  site {name}: {site['status']}" for name, site in record["sites"].items()]
    lines += [f"  run {entry['run_id']}: {entry['status']}" for entry in record["runs"]]
    _print(record if as_json else lines)


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))


def main() -> None:
    """Console script `server`."""
    sys.exit(run_command(app, "server"))


if __name__ == "__main__":
    main()
