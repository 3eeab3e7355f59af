"""What a person at the site can do on the page: fetch, accept or decline a plan. By the code of the commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.console.own_command import run_client
from client.setup import agree, desk
from client.setup.enrol import ShownPlan
from client.site.home import ClientHome
from privacy.agreement.federation_plan import plan_hash
from privacy.trust import identity
from shared_model.core.errors import FedKT3DError, InputError

PEER = "peer:"  # begins the name of a box that is ticked for a hospital whose digits were compared
ACCEPT_S = 300.0


def fetch(home: ClientHome) -> dict[str, Any]:
    """Ask the coordinator for the newest roster and plan."""
    if desk.ask(home) is None:
        raise InputError("the coordinator has this site's request, but has not admitted it yet")
    shown = agree.newest_plan(home)
    words = "no plan yet" if shown is None else f"plan {shown.plan.name}, sha256 {shown.sha256[:16]}"
    return {"words": [words], "reload": True}


def accept(home: ClientHome, given: Mapping[str, str]) -> dict[str, Any]:
    """Enter the ticked hospitals' digits, and pin the plan that the page showed: it is named by its hash.

    Pinning checks the model, which loads torch. A command of its own does that, so that the page stays small.
    """
    shown = _shown(home, given)
    agree.note_compared(home, shown.plan, [key.removeprefix(PEER) for key in given if key.startswith(PEER)])
    run_client(["plan", "--home", str(home.folder), "--accept", str(shown.path), "--json"], ACCEPT_S)
    if plan_hash(identity.read_input(home.plan_file)) != shown.sha256:
        raise FedKT3DError("another plan came at this moment and was accepted in its place; read the plan again")
    return {"words": [f"plan {shown.plan.name} is accepted: requests that do not fit it are refused"], "reload": True}


def decline(home: ClientHome, given: Mapping[str, str]) -> dict[str, Any]:
    """Note that the plan on the page was declined."""
    shown = _shown(home, given)
    agree.decline(home, shown.sha256)
    return {
        "words": [f"plan {shown.plan.name} is declined; nothing was sent. Tell the coordinator why"],
        "reload": True,
    }


def _shown(home: ClientHome, given: Mapping[str, str]) -> ShownPlan:
    shown = agree.newest_plan(home)
    if shown is None or shown.pinned or shown.sha256 != given.get("sha256"):
        raise InputError("this is not the plan that waits now; load the page again and read it")
    return shown
