"""`client upgrade-check`: can this version of the software take over a site's folder? Asked before the old one stops.

A new version is installed beside the old one, in an environment of its own, and its `client upgrade-check` reads the
folder, also while the old version is at work. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.site.config import SiteConfig
from client.site.home import SCHEMA as HOME_SCHEMA
from client.site.home import ClientHome
from client.site.migration import schema_of, upgraded_policy
from client.site.policy import Policy
from client.training.installed import InstalledTraining
from privacy.agreement.federation_plan import FederationPlan
from privacy.dp.terms import NOISED
from privacy.flower.processes import is_running
from privacy.wire.heads import OLDEST_SCHEMA, SCHEMA
from shared_model.core.errors import FedKT3DError
from shared_model.core.software import versions


@dataclass(frozen=True, kw_only=True)
class UpgradeReport:
    """``problems``: what this version cannot go on with; empty where it can. ``notes``: what else a person may want to
    know. ``schemas``: oldest and newest version of the message schema that it speaks."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    schemas: tuple[int, int] = (OLDEST_SCHEMA, SCHEMA)

    def lines(self) -> list[str]:
        """Return it as text for a person."""
        oldest, newest = self.schemas
        found = [f"PROBLEM {line}" for line in self.problems] + [f"note: {line}" for line in self.notes]
        found.append(f"messages: reads schema {oldest} to {newest}; a coordinator must speak one of them")
        ready = "this version can take over: stop client start, and start it with this version"
        return [*found, "not ready: keep the old version at work" if self.problems else ready]


def check_upgrade(folder: Path) -> UpgradeReport:
    """Read all that `client start` of this version will need from a site's folder; raises nothing that it finds."""
    problems: list[str] = []
    notes: list[str] = []

    def reads(what: str, read: Callable[[], object]) -> None:
        try:
            read()
        except FedKT3DError as error:
            problems.append(f"{what}: {error}")

    try:
        home = ClientHome.load(folder, older=True)
    except FedKT3DError as error:
        return UpgradeReport(problems=(f"folder: {error}",), notes=())
    reads("site.yaml", lambda: SiteConfig.load(home.site_config))
    reads("admission", home.require_admission)
    older = schema_of(home.folder) != HOME_SCHEMA
    if older:
        notes.append(
            f"the folder has schema {schema_of(home.folder)}: client start, or client upgrade before it, brings it to"
            f" {HOME_SCHEMA} and keeps a copy of each file that it changes"
        )
    reads("policy.yaml", lambda: _policy(home))
    if not any(line.startswith("policy.yaml") for line in problems):
        policy = _policy(home)
        if set(policy.modes) & set(NOISED) and not older:  # `client upgrade` verifies an older ledger
            reads("privacy ledger", lambda: policy.ledger_in(home.folder).entries())
    reads("plan", lambda: _check_plan(home.pinned_plan(), problems, notes))
    if is_running(home.lock):
        notes.append("client start runs: stop it before this version starts")
    return UpgradeReport(problems=tuple(problems), notes=tuple(notes))


def _policy(home: ClientHome) -> Policy:
    """Return the site's policy as this version will have it."""
    return Policy.parse(upgraded_policy(home.policy) or home.policy.read_text(encoding="utf-8"), home.policy.name)


def _check_plan(plan: FederationPlan | None, problems: list[str], notes: list[str]) -> None:
    """Note whether the pinned plan's model is the one of this version; its software may differ."""
    if plan is None:
        notes.append("no plan is pinned, so nothing is known of the model that will be asked for")
        return
    manifest, _ = InstalledTraining().model(plan.model)
    if manifest != plan.manifest:
        problems.append("plan: its model is not the one of this version; first finish its run, or accept a new plan")
    ours = versions()
    notes.extend(
        f"{name}: {theirs} in the plan, {ours.get(name, 'not known')} here"
        for name, theirs in sorted(plan.software.items())
        if ours.get(name) != theirs
    )
