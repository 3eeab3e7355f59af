"""`client`: the hospital's command.

`client join LINK` once, then `client start` for as long as it takes part. Who carries files by hand uses `client init
INVITATION` and `client join ADMISSION` instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import backup as backup_cli
from client.commands import card as card_cli
from client.commands import data as data_cli
from client.commands import dispute as dispute_cli
from client.commands import join as joining
from client.commands import scorecard as scorecard_cli
from client.commands import track as track_cli
from client.commands import trust
from client.commands import upgrade as upgrade_cli
from client.commands import verify as verify_cli
from client.node import start as node
from client.node import status as site_status
from client.setup import agree, enrol
from client.site.home import ClientHome
from client.site.migration import upgrade_site
from shared_model.core.command import add_version, run_command
from shared_model.core.errors import InputError

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
    target: Annotated[
        str, typer.Argument(metavar="LINK", help="The coordinator's link, or - to read it; or a file SITE.admission.")
    ],
    home_folder: Annotated[
        Path | None, typer.Option("--home", help="The site's folder; with a link it is made. Default then: ./SITE.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the patients. Default: you are asked.")] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of the data. Default: told from the files.")] = None,
    site_config: Annotated[Path | None, typer.Option(help="Use this site.yaml instead of --data.")] = None,
    patience_s: Annotated[
        float | None, typer.Option("--wait", help="Seconds to wait for the admission. Default: as long as it takes.")
    ] = None,
    go_on: Annotated[bool, typer.Option("--start", help="Then take part, as `client start` does.")] = False,
    as_json: AsJson = False,
) -> int:
    """Join with the coordinator's link, in one step: keys, request, admission, plan, `client check`.

    Given a file SITE.admission instead: read it, the site's certificate, the roster, perhaps a plan to look at. The
    same link again goes on where it stopped. Exit code 0: done, and with a link ready; 2: not ready.
    """
    told = (lambda line: print(line, file=sys.stderr)) if as_json else (lambda line: print(line, flush=True))
    if joining.is_link(target):
        given = None if data is None and site_config is None else joining.data_at(data, kind, site_config)
        asks = sys.stdin.isatty() and target != "-"
        made = joining.by_link(target, home_folder, given, patience_s, told, asks=asks)
    else:
        made = joining.by_file(Path(target), home_folder, told)
    if as_json:
        _print(made.record())
    if go_on and made.admission is not None:
        node.start(made.site, told, console=True)
    return InputError.exit_code if made.ready is False or made.admission is None else 0


@app.command()
def plan(
    home_folder: Home,
    accept: Annotated[Path | None, typer.Option("--accept", help="Pin this plan: a signed plan.json.")] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="First ask the coordinator for the newest one; of sites that have a link.")
    ] = False,
    decline: Annotated[bool, typer.Option("--decline", help="Note that the offered plan is declined here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the federation plan: the pinned one, or else the offered one. With --accept, pin one first."""
    if decline and accept is not None:
        raise InputError("plan: expected --accept or --decline, not both")
    site = ClientHome.load(home_folder)
    if fetch:
        joining.fetch(site, lambda line: print(line, file=sys.stderr))
    if accept is not None:
        enrol.pin_plan(site, accept)
    shown = agree.decline_offered(site) if decline else enrol.plan_to_show(site)
    if decline:
        print(f"{site.site}: declined, nothing was sent; tell the coordinator why", file=sys.stderr)
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
def start(
    home_folder: Home,
    page: Annotated[bool, typer.Option("--console/--no-console", help="Also run the web page.")] = True,
) -> None:
    """Take part in the federation until SIGTERM or Ctrl-C, and run the site's web page (`client console --link`)."""
    for line in upgrade_site(home_folder):
        print(line, flush=True)
    site = ClientHome.load(home_folder)
    site.require_admission()
    node.start(site, lambda line: print(line, flush=True), console=page)


@app.command()
def console(
    home_folder: Home,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    link: Annotated[
        bool, typer.Option("--link", help="Only print the address, with its token, of the page that runs.")
    ] = False,
) -> None:
    """Serve the site's web page on this machine alone until Ctrl-C, and print its address with the token that opens it.

    `client start` runs one already: --link prints its address.
    """
    from client.console.serve import running_link, serve
    from privacy.flower.processes import free_loopback_port

    site = ClientHome.load(home_folder)
    if link:
        print(running_link(site))
    else:
        serve(site, port or free_loopback_port(), lambda line: print(line, flush=True))


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
dispute_cli.add_to(app)
track_cli.add_to(app)
upgrade_cli.add_to(app)
app.add_typer(card_cli.app)
app.add_typer(trust.app)


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))


def main() -> None:
    """Console script `client`."""
    sys.exit(run_command(app, "client"))


if __name__ == "__main__":
    main()
