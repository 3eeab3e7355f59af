"""`client`: the hospital's command.

`client init INVITATION` and `client join ADMISSION` once, then `client start` for as long as it takes part.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import backup as backup_cli
from client.commands import data as data_cli
from client.commands import scorecard as scorecard_cli
from client.commands import trust
from client.commands import upgrade as upgrade_cli
from client.commands import verify as verify_cli
from client.node import start as node
from client.node import status as site_status
from client.setup import enrol
from client.site.home import ClientHome
from client.site.migration import upgrade_site
from client.site.policy import Policy
from privacy.trust import certificates
from shared_model.core.command import add_version, run_command

app = typer.Typer(
    name="client", help="A hospital in a federation.", no_args_is_help=True, pretty_exceptions_enable=False
)
add_version(app, "client")

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


@app.command()
def init(
    invitation: Annotated[Path, typer.Argument(help="SITE.invitation, from the coordinator.")],
    home_folder: Annotated[Path, typer.Option("--home", help="New folder for the site's keys and state.")],
    data_root: Annotated[Path | None, typer.Option(help="Folder of the cases. `client init` splits them.")] = None,
    data: Annotated[str, typer.Option(help="How cases are stored: dicom, cases, openkbp, openkbp128, gdp.")] = "cases",
    site_config: Annotated[Path | None, typer.Option(help="Use this site.yaml instead of --data-root.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a site's folder: its own keys, the request for admission, site.yaml, policy.yaml. Never overwrites."""
    made = enrol.create(invitation, home_folder, enrol.Data(kind=data, root=data_root, site_config=site_config))
    record = {"home": str(made.folder), "site": made.site, "consortium": made.consortium}
    record["request"] = str(made.request_file)
    lines = [
        f"site {made.site} of {made.name} in {made.folder}",
        f"  compare with the coordinator by telephone: consortium {made.consortium}",
        f"  read and edit: {made.site_config} (data) and {made.policy} (what may be asked, and what may leave)",
        f"  give the coordinator: {made.request_file}",
        f"  next, when the coordinator has answered: client join {made.site}.admission --home {home_folder}",
    ]
    _print(record if as_json else lines)


@app.command()
def join(
    admission: Annotated[Path, typer.Argument(help="SITE.admission, from the coordinator.")],
    home_folder: Home,
    as_json: AsJson = False,
) -> None:
    """Read the coordinator's admission: the site's certificate, the roster, perhaps a federation plan to look at."""
    site = ClientHome.load(home_folder)
    admitted = enrol.join(site, admission)
    until = certificates.expires(admitted.certificate).isoformat(timespec="seconds")
    record: dict[str, Any] = {"site": site.site, "roster_version": admitted.roster.version, "until": until}
    record |= {"sites": admitted.roster.names(), "plan_offered": admitted.plan is not None}
    lines = [f"{site.site}: admitted until {until[:10]}; roster: {', '.join(admitted.roster.names())}"]
    if admitted.plan is not None:
        lines.append(f"  next: read and accept the plan that came with it: client plan --home {home_folder}")
    waits = Policy.load(site.policy).require_plan and not site.plan_file.exists()
    if waits and admitted.plan is None:
        lines.append(
            f"  next: when you have the coordinator's plan.json: client plan --home {home_folder} --accept FILE"
        )
    _print(record if as_json else [*lines, *([] if waits else [f"  next: client start --home {home_folder}"])])


@app.command()
def plan(
    home_folder: Home,
    accept: Annotated[Path | None, typer.Option("--accept", help="Pin this plan: a signed plan.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the federation plan: the pinned one, or else the offered one. With --accept, pin one first."""
    site = ClientHome.load(home_folder)
    if accept is not None:
        enrol.pin_plan(site, accept)
    shown = enrol.plan_to_show(site)
    _print(shown.record() if as_json else shown.lines(home_folder))


@app.command()
def leave(
    home_folder: Home,
    note: Annotated[Path | None, typer.Option(help="File for the note. Default: ./SITE.leave.")] = None,
    delete_keys: Annotated[bool, typer.Option("--delete-keys", help="Delete the site's private keys.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the site, leave the federation and write a signed note. With it, the coordinator revokes the site."""
    site = ClientHome.load(home_folder)
    target = note or Path(f"{site.site}.leave")
    enrol.leave(site, target, delete_keys=delete_keys)
    lines = [
        f"{site.site}: stopped, and its admission is deleted here",
        f"  give the coordinator {target}, and ask for: server revoke {site.site}",
        "  the keys are deleted" if delete_keys else f"  the keys are still in {site.folder / 'keys'}",
    ]
    _print({"site": site.site, "note": str(target), "keys_deleted": delete_keys} if as_json else lines)


@app.command()
def start(home_folder: Home) -> None:
    """Take part in the federation until SIGTERM or Ctrl-C."""
    for line in upgrade_site(home_folder):
        print(line, flush=True)
    site = ClientHome.load(home_folder)
    site.require_admission()
    node.start(site, lambda line: print(line, flush=True))


@app.command()
def status(
    home_folder: Home,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="For a health check: exit 0 where its processes live, else 1.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether the site runs, whether it is connected, and what it does."""
    if healthy:
        ill = site_status.ill(ClientHome.load(home_folder))
        _print({"healthy": not ill, "why": ill} if as_json else [f"not healthy: {ill}" if ill else "healthy"])
        raise typer.Exit(1 if ill else 0)
    report = site_status.status(ClientHome.load(home_folder))
    _print(report if as_json else [site_status.describe(report)])


@app.command()
def budget(
    home_folder: Home,
    make_ledger: Annotated[
        bool, typer.Option("--make-ledger", help="Make the ledger in policy.yaml's folder. An existing one stays.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the privacy ledger and show what this site has spent of its privacy budget."""
    from client.site.budget import budget_report, make_site_ledger

    home = ClientHome.load(home_folder)
    if make_ledger:
        make_site_ledger(home)
    report = budget_report(home)
    _print(report.record() if as_json else report.lines())


backup_cli.add_to(app)
data_cli.add_to(app)
scorecard_cli.add_to(app)
verify_cli.add_to(app)
upgrade_cli.add_to(app)
app.add_typer(trust.app)


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))


def main() -> None:
    """Console script `client`."""
    sys.exit(run_command(app, "client"))


if __name__ == "__main__":
    main()
