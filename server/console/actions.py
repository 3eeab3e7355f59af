"""What can be done from the console: what a coordinator would type, by the same code.

A run that is started here is a `server run` of its own, which goes on when the console ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.trust.link import JoinLink
from privacy.trust.membership import AdmissionRequest
from server.config.compose import compose_run
from server.consortium.admission import Admissions, register_of
from server.consortium.plan import sign_plan
from server.consortium.qr import qr_svg
from server.deployment.control import Control
from server.deployment.home import ServerHome
from server.runs import index as runs
from shared_model.core.errors import InputError, naming


@dataclass(frozen=True, kw_only=True)
class Made:
    """What an act made: words for the page; where there is one a file to save, or a link with its QR code as SVG."""

    words: tuple[str, ...]
    file: str = ""
    content: str = ""
    link: str = ""
    qr: str = ""


def invite(home: ServerHome, site: str, days: int, address: str) -> Made:
    """Make an invitation. It holds a one-time code: hand it over in a way that nobody else can read."""
    with register_of(home) as register:
        invitation = register.invite(site, days, address or None)
    link = JoinLink.of(invitation).text()
    return Made(
        words=(
            f"{site} is invited until {invitation.expires[:10]}. Hand over the link (client join LINK) or the file, so"
            " that nobody else can read it; it is shown here once",
            f"compare the consortium's id with the site by telephone: {invitation.consortium}",
        ),
        link=link,
        qr=qr_svg(link),
        file=f"{site}.invitation",
        content=invitation.to_json().decode(),
    )


def admit(home: ServerHome, site: str, request: str) -> Made:
    """Admit ``site``, whose request came by its link, or the one whose file holds ``request``. Needs the CA's key."""
    if bool(site) == bool(request.strip()):
        raise InputError("admit: expected the name of a site that waits, or the file of its request")
    with register_of(home) as register:
        if site:
            read = register.request(site)
        else:
            with naming(Path("the request")):
                read = AdmissionRequest.read(request.encode())
        if not home.ca_key.exists():
            raise InputError(f"the CA's key is not on this machine: server admit {read.site} --ca-key FILE")
        admitted, digits = register.admit(read, home.ca_key), register.digits(read)
    words = (f"{admitted.site} is admitted as node {admitted.node_id}", f"digits of its key: {digits}")
    if site:
        return Made(words=words)
    return Made(words=(*words, "give it the file"), file=f"{admitted.site}.admission", content=admitted.file.decode())


def plan(home: ServerHome, overrides: str, days: int) -> Made:
    """Write and sign the plan of a run."""
    made = sign_plan(home, settings(overrides), days)
    return Made(words=(*made.words, f"sha256 {made.sha256}"), file="plan.json", content=made.content.decode())


def start_run(home: ServerHome, overrides: str) -> Made:
    """Start a run as `server run` does. Its output goes to ``logs/run-NAME.log``."""
    given = settings(overrides)
    config = compose_run(given, len(Admissions(home).roster().names()))
    return _launch(home, config.name, given)


def resume_run(home: ServerHome, name: str) -> Made:
    """Let a stopped run go on."""
    return _launch(home, runs.find(home, name).name, ["--resume", "--run", name])


def stop_run(home: ServerHome, name: str) -> Made:
    """Stop a run; it can go on later."""
    Control(home).stop(runs.find(home, name).run_id)
    return Made(words=(f"run {name} was told to stop; it can go on from its last round",))


def settings(text: str) -> list[str]:
    """Return the overrides in a text, one a line or with blanks between them. None may look like an option."""
    found = text.split()
    for setting in found:
        if setting.startswith("-") or "=" not in setting:
            raise InputError(f"{setting!r}: expected settings such as rounds.count=20")
    return found


def _launch(home: ServerHome, name: str, arguments: Sequence[str]) -> Made:
    command = [sys.executable, "-P", "-m", "server.cli", "run", "--home", str(home.folder), *arguments]
    log = home.log(f"run-{name}")
    with log.open("ab") as output:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=home.folder
        )
    return Made(words=(f"run {name} was started; what it prints is in {log}",))
