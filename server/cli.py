"""`server`: the coordinator's command.

Run `server init NAME` once, keep `server start --home DIR` running while the federation lives, use `server invite` and
`server admit` for each site (server/consortium/commands.py), and `server run` for each run.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from server.config.compose import as_yaml, compose_run, compose_values
from server.config.settings_help import command_with_settings, shared_settings
from server.consortium import commands as members
from server.consortium.admission import Admissions
from server.deployment import home
from server.deployment import start as coordinator
from server.deployment.backup import back_up_coordinator, restore_coordinator
from server.deployment.home import ServerHome
from server.deployment.migration import upgrade_coordinator
from server.runs import dispute as disputes
from server.runs import index as runs
from server.runs.follow import run as run_federation
from server.runs.publish import publish as publish_adapter
from server.runs.show import Progress, outcome_record, rounds_table
from server.runs.status import lines as status_lines
from server.runs.status import report as status_report
from server.runs.verify import audit
from shared_model.core.command import add_version, run_command
from shared_model.core.errors import FedKT3DError, InputError

app = typer.Typer(
    name="server", help="The coordinator of a federation.", no_args_is_help=True, pretty_exceptions_enable=False
)
add_version(app, "server")
app.add_typer(members.app)
disputes.add_to(app)

Home = Annotated[Path, typer.Option("--home", help="The coordinator's folder, made by `server init`.")]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run; default: the last one.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the consortium: letters, digits, _ . and -.")],
    home_folder: Annotated[
        Path | None, typer.Option("--home", help="New folder for keys, state and results; default: ./NAME.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on for sites.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on for sites.")] = 9092,
    control_port: Annotated[int, typer.Option(help="Local control channel; 0: PORT + 1.")] = 0,
    address: Annotated[
        list[str] | None, typer.Option(help="Name or IP by which sites reach this machine; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a coordinator: the consortium's CA, a TLS certificate, a roster, secrets, folders. Overwrites nothing."""
    made = home.create(name, home_folder or Path(name), host, port, control_port or port + 1, address or [])
    record = {"home": str(made.folder), "name": made.name, "ca": str(made.ca_certificate), "address": made.address}
    lines = [
        f"coordinator of {made.name} in {made.folder}; sites reach it at {made.address}",
        f"  keep {made.ca_key} off this machine; to admit a site, name it with --ca-key",
        f"  next: server start --home {made.folder}, and server invite SITE --home {made.folder}",
    ]
    _print(record if as_json else lines)


@app.command()
def start(
    home_folder: Home,
    health_address: Annotated[
        str | None, typer.Option("--health", metavar="HOST:PORT", help="Also answer gRPC's health check there.")
    ] = None,
    console: Annotated[bool, typer.Option("--console/--no-console", help="Also run the web page.")] = True,
) -> None:
    """Run the coordinator until SIGTERM or Ctrl-C, and its web page on 127.0.0.1 (`server console --link`)."""
    for line in upgrade_coordinator(home_folder):
        print(line, flush=True)
    server = ServerHome.load(home_folder)
    coordinator.start(server, lambda line: print(line, flush=True), health_address, console=console)


@app.command()
def upgrade(home_folder: Home, as_json: AsJson = False) -> None:
    """Bring the folder of an earlier version to this version's layout, and keep its files as they were in the folder.

    `server start` does so by itself. A folder of this version stays as it is.
    """
    done = upgrade_coordinator(home_folder)
    ServerHome.load(home_folder)
    lines = done or [f"{home_folder}: is of this version already; nothing was changed"]
    _print({"home": str(home_folder), "done": done} if as_json else lines)


@app.command(cls=command_with_settings("server run", shared_settings))
def run(
    home_folder: Home,
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, such as rounds.count=3.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/NAME in the home.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the last run, or --run NAME.")] = False,
    name: RunName = None,
    cfg: Annotated[
        Literal["job"] | None, typer.Option("--cfg", help="job: print the whole configuration and stop.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a federation with the connected sites. The same folder and configuration resume a stopped run."""
    server = ServerHome.load(home_folder)
    if resume and (overrides or out):
        raise InputError(
            "--resume: uses the configuration that the run was started with; give no overrides and no --out"
        )
    if name and not resume:
        raise InputError("--run: only works with --resume; name=NAME names a new run")
    target = runs.find(server, name).out if resume else None
    sites = len(Admissions(server).roster().names())
    if cfg:
        values = compose_values(overrides or [], sites) if target is None else asdict(runs.configuration(target))
        print(as_yaml(values), end="")
        return
    config = compose_run(overrides or [], sites) if target is None else runs.configuration(target)
    target = target or (out or runs.default_out(server, config.name)).resolve()
    console = Console(stderr=as_json)
    with Progress(console) as progress:
        outcome = run_federation(server, config, target, progress.event)
    if as_json:
        _print(outcome_record(outcome))
        return
    console.print(rounds_table(outcome.report))
    console.print(f"adapter: {outcome.adapter}", soft_wrap=True, markup=False)


@app.command()
def status(
    home_folder: Home,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="For a health check: exit 0 where sites can be served, else 1.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show whether the coordinator runs, and which sites and runs it knows."""
    if healthy:
        ill = coordinator.ill(ServerHome.load(home_folder))
        _print({"healthy": not ill, "why": ill} if as_json else [f"not healthy: {ill}" if ill else "healthy"])
        raise typer.Exit(1 if ill else 0)
    record = status_report(ServerHome.load(home_folder))
    _print(record if as_json else status_lines(record))


@app.command()
def track(
    run: Annotated[str | None, typer.Argument(help="Name of the run. Default: the last one.")] = None,
    home_folder: Annotated[Path | None, typer.Option("--home", help="The coordinator's folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="A run's folder instead, also of `simulate run`.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
    mlflow: Annotated[
        str | None, typer.Option(help="MLflow's tracking URI: http://..., sqlite:///..., file:...")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Write what is there and end.")] = False,
) -> None:
    """Write a run's curves for TensorBoard or MLflow, live until it finishes. Needs the extra of either."""
    from server.runs import index as runs
    from server.runs import track as tracking
    from shared_model.core.curve_stores import curves_of

    if (home_folder is None) == (out is None):
        raise InputError("track: expected --home or --out")
    folder = out if out is not None else runs.find(ServerHome.load(home_folder or Path()), run).out
    if not (folder / runs.EVENTS).is_file():
        raise InputError(f"{folder}: no {runs.EVENTS}; expected a run's output folder")
    curves = curves_of(tensorboard, mlflow, run or folder.name)
    print(f"rounds written: {tracking.track(folder, [curves], live=not once)}")


@app.command()
def metrics(
    home_folder: Home,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9187,
) -> None:
    """Serve the coordinator's state for Prometheus, until Ctrl-C. Needs the extra: fedkt3d[metrics]."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise InputError("metrics: needs prometheus_client; install fedkt3d[metrics]")
    from server.runs.metrics import serve

    server, thread = serve(ServerHome.load(home_folder), host, port)
    print(f"metrics: http://{host}:{port}/metrics", flush=True)
    try:
        thread.join()
    finally:
        server.shutdown()


@app.command()
def console(
    home_folder: Home,
    host: Annotated[str, typer.Option(help="Address to listen on. Not loopback: HTTPS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: the control channel's + 1.")] = 0,
    name: Annotated[
        list[str] | None, typer.Option(help="Name by which browsers reach this machine; repeatable.")
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Only print the address, with its token, of the page that runs.")
    ] = False,
) -> None:
    """Serve a web page of this coordinator until Ctrl-C, and print its address with the token that opens it.

    `server start` runs one on 127.0.0.1 already: --link prints its address.
    """
    from server.console.serve import Address, serve

    server = ServerHome.load(home_folder)
    address = Address(host=host, port=port or server.console_port, names=tuple(name or ()))
    if link:
        print(address.link(server))
    else:
        serve(server, address, lambda line: print(line, flush=True))


@app.command()
def publish(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for adapter.safetensors and its model card.")],
    home_folder: Home,
    name: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's adapter and model card: sites by number, hashes, metrics and the privacy statement."""
    made = publish_adapter(ServerHome.load(home_folder), target, name)
    record = {"adapter": str(made.adapter), "card": str(made.card), "sha256": made.sha256}
    _print(record if as_json else [f"adapter: {made.adapter}", f"card: {made.card}", f"sha256: {made.sha256}"])


@app.command()
def verify(
    home_folder: Home,
    name: RunName = None,
    heads: Annotated[
        list[Path] | None, typer.Option("--heads", help="A site's file of heads (`client verify --heads`); repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Audit a finished run offline: compute it again from its sums, hold it against the log. Exit 1 if it differs."""
    found = audit(ServerHome.load(home_folder), name, heads or [])
    _print(asdict(found) if as_json else found.lines())
    if found.wrong:
        raise FedKT3DError(f"the audit found {len(found.wrong)} contradictions")


@app.command()
def backup(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the backup, on another disk.")],
    home_folder: Home,
    with_keys: Annotated[bool, typer.Option("--with-keys", help="Also private keys. Keep the file secret.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the coordinator's folder to one file, also while it runs. Logs are left out, and private keys."""
    made = back_up_coordinator(ServerHome.load(home_folder), archive, secrets=with_keys)
    record = {"archive": str(archive), "files": len(made.files), "without": list(made.without)}
    lines = [f"{archive}: {len(made.files)} files of {made.owner}"]
    if made.without:
        lines.append(f"  without {', '.join(made.without)}: keep a copy of these where keys are kept")
    _print(record if as_json else lines)


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, made by `server backup`.")],
    home_folder: Annotated[Path, typer.Option("--home", help="New folder for the coordinator.")],
    as_json: AsJson = False,
) -> None:
    """Make a coordinator's folder from a backup. Sites refuse rounds that are older than the last they paid for."""
    lost = restore_coordinator(archive, home_folder)
    lines = [f"{home_folder}: restored"]
    lines += [f"  put back first: {', '.join(lost)}"] if lost else []
    lines.append(f"  next: server start --home {home_folder}; sites are registered again where that is needed")
    _print({"home": str(home_folder), "put_back": lost} if as_json else lines)


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))


def main() -> None:
    """Console script `server`."""
    sys.exit(run_command(app, "server"))


if __name__ == "__main__":
    main()
