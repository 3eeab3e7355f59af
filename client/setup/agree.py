"""What a person at the site decides about an offered plan: whose keys were compared, accepted, declined.

Declining is the site's own note: nothing is sent, and a plan that is not accepted binds nobody. The plan may still be
accepted later; another plan is offered anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from client.setup.enrol import ShownPlan, plan_to_show
from client.site.home import ClientHome
from privacy.agreement.federation_plan import FederationPlan, plan_hash
from privacy.flower.processes import read_state
from privacy.trust import identity
from privacy.trust.peers import peer_digits
from shared_model.core.errors import InputError
from shared_model.core.files import PUBLIC, write_json


@dataclass(frozen=True, kw_only=True)
class PlanPeer:
    """Another hospital that a plan names: the digits of its key there, and whether somebody here has compared them."""

    name: str
    digits: str
    compared: bool


def peers_of(home: ClientHome, plan: FederationPlan) -> list[PlanPeer]:
    """Return the other hospitals of a plan, or of the roster where the plan names none."""
    roster = home.roster()
    named = plan.sites or ({} if roster is None else roster.identities())
    unknown = set(home.peers.unknown(named, home.site))
    return [
        PlanPeer(name=name, digits=peer_digits(home.consortium, name, key), compared=name not in unknown)
        for name, key in sorted(named.items())
        if name != home.site
    ]


def note_compared(home: ClientHome, plan: FederationPlan, names: Iterable[str]) -> None:
    """Enter the digits that the plan gives for these hospitals: a person has compared them with each hospital itself.

    InputError for a hospital that the plan does not name, or of which other digits were compared before.
    """
    digits = {peer.name: peer.digits for peer in peers_of(home, plan)}
    for name in names:
        if name not in digits:
            raise InputError(f"{name}: the plan names no such hospital")
        home.peers.add(name, digits[name])


def newest_plan(home: ClientHome) -> ShownPlan | None:
    """Return the plan to show: the offered one if it differs from the pinned one, else that; None without any."""
    if home.offered_plan.exists():
        content = identity.read_input(home.offered_plan)
        pinned = home.plan_file.exists() and plan_hash(identity.read_input(home.plan_file)) == plan_hash(content)
        if not pinned:
            plan = home.read_plan(home.offered_plan)
            return ShownPlan(path=home.offered_plan, plan=plan, sha256=plan_hash(content), pinned=False, newer=False)
    return plan_to_show(home) if home.plan_file.exists() else None


def decline(home: ClientHome, sha256: str) -> None:
    """Note that a person here declined the plan of this hash."""
    write_json(home.declined_plan, {"sha256": sha256}, mode=PUBLIC)


def decline_offered(home: ClientHome) -> ShownPlan:
    """Decline the offered plan and return it; InputError where none is offered, or it is in force already."""
    shown = newest_plan(home)
    if shown is None or shown.pinned:
        there = "none is offered" if shown is None else "the offered one is accepted; client leave ends what it allows"
        raise InputError(f"--decline: {there}")
    decline(home, shown.sha256)
    return shown


def is_declined(home: ClientHome, sha256: str) -> bool:
    """Return whether the plan of this hash was declined here last."""
    return read_state(home.declined_plan).get("sha256") == sha256
