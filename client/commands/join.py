"""`client join`: with a link in one step, from nothing to a checked site; or with an admission that came as a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from client.data.kinds import find_kind
from client.setup import agree, desk, enrol
from client.setup.enrol import ShownPlan
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.agreement.admission import Admission
from privacy.trust import certificates
from privacy.trust.link import SCHEME, JoinLink
from shared_model.core.errors import InputError

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What joining gave: ``admission`` is None while the site waits, ``ready`` None where nothing was checked."""

    site: ClientHome
    admission: Admission | None
    ready: bool | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        found: dict[str, Any] = {"site": self.site.site, "home": str(self.site.folder), "ready": self.ready}
        found["admitted"] = self.admission is not None
        if self.admission is not None:
            until = certificates.expires(self.admission.certificate).isoformat(timespec="seconds")
            found |= {"roster_version": self.admission.roster.version, "until": until}
            found |= {"sites": self.admission.roster.names(), "plan_offered": self.admission.plan is not None}
        return found


def is_link(target: str) -> bool:
    """Return whether what was given is a link, or ``-`` for one on standard input."""
    return target == "-" or target.startswith(SCHEME)


def by_link(
    target: str, folder: Path | None, data: enrol.Data | None, patience_s: float | None, say: Say, *, asks: bool
) -> Joined:
    """Make the home, send the request, wait for the admission, show the plan, check. ``asks``: a person answers here.

    ``data``: where the patients are; None: a person is asked. It can be repeated at any point, and goes on from there.
    """
    link = JoinLink.parse(sys.stdin.readline() if target == "-" else target)
    home_folder = folder or Path(link.site)
    site = desk.home_of(link, home_folder, lambda: _asked_data() if data is None else data)
    say(f"site {site.site} of {site.name}, in {site.folder}; it trusts the CA that the link names, and no other")
    say(f"  its own limits: {site.policy}; its data: {site.site_config}")
    say(f"  digits of its key, for the coordinator and the other hospitals: {desk.own_digits(site)}")
    admission = desk.wait(site, lambda line: say(f"  {line}"), patience_s)
    if admission is None:
        say("not admitted yet; run the same command again to go on")
        return Joined(site=site, admission=None)
    say(admitted_line(site, admission))
    _agree(site, home_folder, say, asks=asks)
    return Joined(site=site, admission=admission, ready=_check(site, say))


def by_file(admission: Path, folder: Path | None, say: Say) -> Joined:
    """Read an admission that came as a file, and say what to do next."""
    if folder is None:
        raise InputError("--home: expected the site's folder, made by `client init`")
    site = ClientHome.load(folder)
    admitted = enrol.join(site, admission)
    say(admitted_line(site, admitted))
    if admitted.plan is not None:
        say(f"  next: read and accept the plan that came with it: client plan --home {folder}")
    waits = Policy.load(site.policy).require_plan and not site.plan_file.exists()
    if waits and admitted.plan is None:
        say(f"  next: when you have the coordinator's plan.json: client plan --home {folder} --accept FILE")
    elif not waits:
        say(f"  next: client start --home {folder}")
    return Joined(site=site, admission=admitted)


def admitted_line(site: ClientHome, admission: Admission) -> str:
    """Return the line that says so."""
    until = certificates.expires(admission.certificate).isoformat()[:10]
    return f"{site.site}: admitted until {until}; roster: {', '.join(admission.roster.names())}"


def fetch(site: ClientHome, say: Say) -> None:
    """Ask the coordinator for the newest roster and plan. InputError when this site has joined by files."""
    admission = desk.ask(site)
    if admission is None:
        raise InputError(f"{site.server}: has this site's request, but has not admitted it yet")
    say(admitted_line(site, admission))


def data_at(root: Path | None, kind: str | None, site_config: Path | None) -> enrol.Data:
    """Return where the patients are; their kind is told from the files where it is not given."""
    found = kind or ("cases" if root is None else find_kind(root))
    return enrol.Data(kind=found, root=root, site_config=site_config)


def _asked_data() -> enrol.Data:
    if not sys.stdin.isatty():
        raise InputError("--data: expected the folder of the patients, or --site-config (a site.yaml)")
    root = Path(str(typer.prompt("Folder of the patients", err=True))).expanduser()
    return data_at(root, None, None)


def _agree(site: ClientHome, folder: Path, say: Say, *, asks: bool) -> None:
    """Show the newest plan, and have a person compare keys and accept it, where one is there."""
    shown = agree.newest_plan(site)
    if shown is None:
        say("no plan yet; later: client plan --fetch, or the site's page (client console)")
        return
    for line in shown.lines(folder):
        say(line)
    if not asks or shown.pinned:
        return
    _compare(site, shown)
    if typer.confirm("Accept this plan?", default=False, err=True):
        say(f"accepted: sha256 {enrol.pin_plan(site, shown.path)}")
    else:
        agree.decline(site, shown.sha256)
        say("not accepted")


def _compare(site: ClientHome, shown: ShownPlan) -> None:
    for peer in agree.peers_of(site, shown.plan):
        if peer.compared:
            continue
        told = f"{peer.name}: {peer.digits}. Has somebody at {peer.name} itself read out these digits to you?"
        if typer.confirm(told, default=False, err=True):
            agree.note_compared(site, shown.plan, [peer.name])


def _check(site: ClientHome, say: Say) -> bool:
    """Check patients, machine, keys and the way to the coordinator, as `client check --home` does."""
    from client.commands.data import source_of
    from client.setup import check
    from shared_model.adapter.envelope import Envelope

    report = check.check(source_of(None, site, None, None), site, Envelope.of_bundled(), workers=2)
    check.keep(site, report)
    for line in check.lines(report, show_ids=False):
        say(line)
    return report.ready
