"""`client budget`: what this site has spent of its privacy budget, and what its pinned plan will ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.ledger_binding import bind, bound_ledger
from client.site.policy import Policy
from privacy.dp.accountant import epsilon, profile
from privacy.dp.ledger import Spent
from privacy.dp.ledger_record import LedgerEntry
from shared_model.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BudgetReport:
    """The ledger in figures. ``planned``: epsilon after all releases of the pinned plan, ``planned_alone`` if all
    others collude; None without a plan that costs anything.
    """

    folder: str
    spent: Spent
    limit: float | None
    limit_alone: float | None
    planned: float | None
    planned_alone: float | None
    runs: tuple[tuple[str, str, int], ...]

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it as text for a person."""
        of = "no limit" if self.limit is None else f"of {self.limit:g}"
        of_alone = "no limit" if self.limit_alone is None else f"of {self.limit_alone:g}"
        lines = [
            f"privacy ledger {self.folder}: {self.spent.entries} charges, verified",
            f"  epsilon {self.spent.epsilon:.3f} ({of}) at delta {self.spent.delta:g}, towards the coordinator",
            f"  epsilon {self.spent.epsilon_alone:.3f} ({of_alone}) if all others collude",
        ]
        lines += [f"  run {run[:8]}, mode {mode}: {count} releases" for run, mode, count in self.runs]
        if self.planned is not None and self.planned_alone is not None:
            limits = ((self.planned, self.limit), (self.planned_alone, self.limit_alone))
            over = any(limit is not None and planned > limit for planned, limit in limits)
            refused = "; this site will refuse the last steps" if over else ""
            lines.append(
                f"  the pinned plan, run once more to its end, would bring it to {self.planned:.3f}, and to"
                f" {self.planned_alone:.3f} if all others collude{refused}"
            )
        return lines


def make_site_ledger(home: ClientHome) -> None:
    """Make the ledger in policy.yaml's folder and bind it to the site's data. An existing one stays.

    InputError, and nothing is made, when another ledger counts for these patients.
    """
    ledger, root = Policy.load(home.policy).ledger_in(home.folder), SiteConfig.load(home.site_config).root
    known = bound_ledger(root)
    if known is not None and not ledger.made:
        raise InputError(
            f"{ledger.folder}: the patients of this site are counted in another privacy ledger, which lay in"
            f" {known.folder}; name that folder as `ledger` in policy.yaml, or restore it"
        )
    ledger.create()
    bind(root, ledger)


def budget_report(home: ClientHome) -> BudgetReport:
    """Read and verify the ledger; InputError where it was changed. Takes a second or two."""
    policy = Policy.load(home.policy)
    ledger = policy.ledger_in(home.folder)
    entries = ledger.entries()
    plan = home.pinned_plan()
    planned = planned_alone = None
    if plan is not None and plan.charges:
        charges = [*(entry.charge for entry in entries), *plan.charges]
        planned, planned_alone = (epsilon(profile(charges, alone=alone), policy.delta) for alone in (False, True))
    return BudgetReport(
        folder=str(ledger.folder),
        spent=ledger.spent(),
        limit=policy.max_epsilon,
        limit_alone=policy.max_epsilon_alone,
        planned=planned,
        planned_alone=planned_alone,
        runs=tuple(_by_run(entries)),
    )


def _by_run(entries: list[LedgerEntry]) -> list[tuple[str, str, int]]:
    counts: dict[tuple[str, str], int] = {}
    for entry in entries:
        key = (entry.run_id, entry.purpose)
        counts[key] = counts.get(key, 0) + entry.charge.count
    return [(run, mode, count) for (run, mode), count in counts.items()]
