"""Commands of `server`: who takes part and what is asked (invite, admit, renew, revoke, rotate, tls, plan)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.trust import certificates, identity
from privacy.trust.link import JoinLink
from privacy.trust.membership import AdmissionRequest
from privacy.trust.roster import SITE_NAME
from server.config.federation_plan import PLAN_DAYS
from server.config.settings_help import command_with_settings, shared_settings
from server.consortium.admission import read_ca_key, register_of
from server.consortium.qr import qr_text
from server.deployment.home import ServerHome, renew_tls
from shared_model.core.errors import InputError, naming
from shared_model.core.files import PRIVATE, PUBLIC, create_file, write_bytes

app = typer.Typer()

Home = Annotated[Path, typer.Option("--home", help="The coordinator's folder, made by `server init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Site = Annotated[str, typer.Argument(help="Name of the site: letters, digits, _ and -.")]
CaKey = Annotated[Path | None, typer.Option("--ca-key", help="The CA's private key, if it is not kept in the home.")]


@app.command()
def invite(
    site: Site,
    home_folder: Home,
    out: Annotated[Path | None, typer.Option(help="File to write; default: SITE.invitation here.")] = None,
    days: Annotated[int, typer.Option(help="Days for which the invitation is valid.")] = 14,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT for this site, if it reaches the coordinator another way.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Invite a site: print a link with a one-time code, also as QR, and write a file that holds the same.

    Hand over one of the two in a way that nobody else can read: with it, somebody else could ask in the site's place.
    """
    target = _target(out or Path(f"{site}.invitation"))
    if target.exists():
        raise InputError(f"{target}: exists already; remove it or name another file with --out")
    with register_of(ServerHome.load(home_folder)) as register:
        invitation = register.invite(site, days, address)
    create_file(target, invitation.to_json(), PRIVATE)
    record = {"site": site, "invitation": str(target), "consortium": invitation.consortium}
    link = JoinLink.of(invitation).text()
    record |= {"expires": invitation.expires, "link": link}
    lines = [
        f"hand this link, or the file {target}, to {site}; it is valid until {invitation.expires[:10]}:",
        "",
        link,
        *([qr_text(link)] if sys.stdout.isatty() else [""]),
        f"  at the site: client join LINK. Its request then waits here: server admit {site} --home {home_folder}",
        f"  by files: client init {target.name}, and with the file that comes back: server admit {site}.csr.json",
        f"  consortium {invitation.consortium}: compare this id with the site by telephone",
    ]
    _print(record if as_json else lines)


@app.command()
def admit(
    request: Annotated[
        str, typer.Argument(help="SITE, whose request came by its link; or SITE.csr.json, from `client init`.")
    ],
    home_folder: Home,
    out: Annotated[Path | None, typer.Option(help="File to write; default: SITE.admission here.")] = None,
    ca_key: CaKey = None,
    as_json: AsJson = False,
) -> None:
    """Admit a site: certify its identity, register its node key, add it to the roster. Needs `server start` to run."""
    server = ServerHome.load(home_folder)
    if out is not None:
        _target(out)
    by_link = not Path(request).is_file() and SITE_NAME.accepts(request)
    with register_of(server) as register:
        if by_link:
            read = register.request(request)
        else:
            with naming(Path(request)):
                read = AdmissionRequest.read(identity.read_input(Path(request)))
        digits = register.digits(read)
        admitted = register.admit(read, ca_key or server.ca_key)
    record = {"site": admitted.site, "node_id": admitted.node_id, "digits": digits}
    lines = [f"{admitted.site}: admitted as node {admitted.node_id}; digits of its key: {digits}"]
    if out is not None or not by_link:
        target = out or Path(f"{admitted.site}.admission")
        write_bytes(target, admitted.file, mode=PUBLIC)
        record["admission"] = str(target)
        lines.append(f"  give back: {target} (at the site: client join {target.name} --home NODE)")
    if by_link:
        lines.append("  are these the digits that `client join` shows there? If not: server revoke")
    _print(record if as_json else lines)


@app.command()
def renew(
    site: Site,
    home_folder: Home,
    out: Annotated[Path | None, typer.Option(help="File to write; default: SITE.admission here.")] = None,
    ca_key: CaKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a fresh admission for a site: 90 more days for the same keys, with the current roster and plan."""
    server = ServerHome.load(home_folder)
    target = _target(out or Path(f"{site}.admission"))
    with register_of(server) as register:
        write_bytes(target, register.renew(site, ca_key or server.ca_key), mode=PUBLIC)
    _print({"site": site, "admission": str(target)} if as_json else [f"{site}: renewed; give it {target}"])


@app.command()
def revoke(
    site: Site,
    home_folder: Home,
    note: Annotated[Path | None, typer.Option(help="The site's note from `client leave`; checked first.")] = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a site in the roster. Its node key is refused from now on. `server start` must be running."""
    with register_of(ServerHome.load(home_folder)) as register:
        left = None
        if note is not None:
            with naming(note):
                left = register.check_left(site, identity.read_input(note))
        roster = register.revoke(site)
    record = {"site": site, "roster_version": roster.version, "admitted": roster.names(), "left": left}
    why = f", left {left} by its own note" if left else ""
    _print(record if as_json else [f"{site}: revoked (roster version {roster.version}){why}"])


@app.command()
def tls(
    home_folder: Home,
    address: Annotated[
        list[str] | None, typer.Option(help="Another name or IP by which sites reach this machine; repeatable.")
    ] = None,
    ca_key: CaKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a new TLS key and certificate for the old names and the given ones. The next `server start` uses them."""
    server = ServerHome.load(home_folder)
    with register_of(server):
        certificate = renew_tls(server, read_ca_key(ca_key or server.ca_key), address or [])
    hosts, until = certificates.server_hosts(certificate), certificates.expires(certificate).date().isoformat()
    record = {"certificate": str(server.tls_certificate), "hosts": hosts, "expires": until}
    _print(
        record if as_json else [f"{server.tls_certificate}: for {', '.join(hosts)} until {until}; restart to use it"]
    )


@app.command()
def rotate(home_folder: Home, ca_key: CaKey = None, as_json: AsJson = False) -> None:
    """Make a new key that signs plans, rosters and admissions, certified by the CA, and retire the one before it."""
    server = ServerHome.load(home_folder)
    with register_of(server) as register:
        certificate = register.rotate(ca_key or server.ca_key)
        names = register.roster().names()
    until = certificates.expires(certificate).date().isoformat()
    record = {"certificate": str(server.roster_certificate), "expires": until, "sites": names}
    lines = [
        f"{server.roster_certificate}: signs documents until {until}",
        "  sites get it with their next admission: server renew SITE; until then they accept nothing newly signed",
        "  plans that sites have pinned stay valid; sites that join now need a plan that is signed anew: server plan",
    ]
    _print(record if as_json else lines)


@app.command(cls=command_with_settings("server run", shared_settings))
def plan(
    home_folder: Home,
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, as for `server run`.")] = None,
    days: Annotated[int, typer.Option(help="Days for which the plan is valid.")] = PLAN_DAYS,
    as_json: AsJson = False,
) -> None:
    """Write and sign a run's federation plan, plan.json in the home: what the sites are asked to accept."""
    from server.consortium.plan import sign_plan

    server = ServerHome.load(home_folder)
    made = sign_plan(server, overrides or [], days)
    record: dict[str, Any] = {"plan": str(server.plan_file), "sha256": made.sha256, "name": made.plan.name}
    if made.outlook is not None:
        record["privacy"] = asdict(made.outlook)
    lines = [
        *made.words,
        f"{server.plan_file}: sha256 {made.sha256}",
        "  `server admit` and `server renew` include it; give the file to sites that are admitted already",
    ]
    _print(record if as_json else lines)


def _target(path: Path) -> Path:
    """Return the file to write; InputError when its folder is missing. Checked before anything is changed."""
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")
    return path


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))
