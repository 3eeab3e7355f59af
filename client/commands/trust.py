"""`client trust`: compare keys with the other hospitals, without the coordinator in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from client.site.home import ClientHome
from privacy.trust.passphrase import read_private_key
from privacy.trust.peers import peer_digits
from privacy.trust.signed import private_key

app = typer.Typer(name="trust", help="Compare keys with the other hospitals.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
Peer = Annotated[str, typer.Argument(metavar="SITE", help="The other site's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


@app.command()
def show(home_folder: Home, as_json: AsJson = False) -> None:
    """Show this site's own digits, to read out to the other hospitals, and which of theirs were compared here."""
    home = ClientHome.load(home_folder)
    key = private_key(read_private_key(home.identity_key)).public_key().public_bytes_raw().hex()
    own, known = peer_digits(home.consortium, home.site, key), home.peers.load()
    named = _named(home)
    unknown = home.peers.unknown(named, home.site)
    lines = [f"{home.site} (this site): {own}"]
    lines += [f"{name}: {digits} (compared)" for name, digits in known.items() if name not in unknown]
    lines += [f"{name}: NOT COMPARED; ask that hospital for its digits: client trust add {name}" for name in unknown]
    record: dict[str, Any] = {"site": home.site, "digits": own, "compared": known, "not_compared": unknown}
    _print(record if as_json else lines)


@app.command()
def add(
    site: Peer,
    digits: Annotated[str, typer.Argument(help="The 40 digits that the other hospital reads out.")],
    home_folder: Home,
    as_json: AsJson = False,
) -> None:
    """Enter another hospital's digits, as a person there read them out. From then on sums with it are possible."""
    home = ClientHome.load(home_folder)
    home.peers.add(site, digits)
    differs = site in home.peers.unknown(_named(home), home.site)
    lines = [f"{site}: digits entered"]
    if differs:
        lines.append(f"  WARNING: plan or roster give {site} another key: do not take part until you know why")
    _print({"site": site, "differs": differs} if as_json else lines)


@app.command()
def remove(site: Peer, home_folder: Home, as_json: AsJson = False) -> None:
    """Forget another hospital's digits."""
    ClientHome.load(home_folder).peers.remove(site)
    _print({"site": site} if as_json else [f"{site}: forgotten"])


def _named(home: ClientHome) -> dict[str, str]:
    """Return the sites that the pinned or offered plan names, or else the roster: name -> key in hex."""
    for path in (home.plan_file, home.offered_plan):
        if path.exists() and (sites := home.read_plan(path, kept=path == home.plan_file).sites):
            return dict(sites)
    roster = home.roster()
    return {} if roster is None else roster.identities()


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))
