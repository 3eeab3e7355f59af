"""The gate that every request passes: a hospital's, with its own limits, or a simulated site's, which has none.

Both have the same methods, so a caller need not know which of the two it has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from client.gate.limits import Limits
from client.gate.secure_site import SITES, SecureSite
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.ledger_binding import bind
from client.site.seen_log import SeenLog
from privacy.dp.ledger import SiteLedger
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import Request
from shared_model.core.errors import PolicyError


class Gate(Protocol):
    """What stands between a request and a site's data, and between the site's answer and the coordinator."""

    def check_request(self, site: SiteConfig, asked: Request, now: datetime) -> None:
        """Raise PolicyError when ``asked`` goes beyond the site's limits; ``now`` is the site's local time."""

    def check_copies(self, asked: Request, instance: str) -> None:
        """Raise PolicyError when the request is meant for another copy of this site's home, or the log is another."""

    def seen(self) -> int:
        """Return how many entries of the coordinator's log this site has seen."""

    def newest_record(self) -> str:
        """Return the hash of the ledger's newest record; empty where the site keeps no ledger."""

    def check_size(self, values: int) -> None:
        """Raise PolicyError when an adapter of so many values may not leave."""

    def filter_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics that may leave."""

    def ledger(self, terms: PrivacyTerms) -> SiteLedger | None:
        """Return the ledger that a release by ``terms`` is charged to; None where the site keeps none."""

    def wait(self, seconds: float) -> None:
        """Let an answer wait for its time."""

    def count_answer(self, asked: Request) -> None:
        """Count and note a training answer, durably. Raises PolicyError when the pinned plan allows no more."""

    def secure_site(self) -> SecureSite:
        """Return the site's part in secure aggregation. Raises SecAggError where it has no identity for it."""


@dataclass(frozen=True, kw_only=True)
class HospitalGate:
    """A hospital's gate: its policy, the plan that it has pinned, its ledger and its identity key."""

    home: ClientHome
    limits: Limits

    @classmethod
    def of_home(cls, folder: Path) -> HospitalGate:
        """Read the limits in a site's folder. Raises InputError where a document cannot be read or is not signed."""
        home = ClientHome.load(folder)
        return cls(home=home, limits=Limits.of_home(home))

    def check_request(self, site: SiteConfig, asked: Request, now: datetime) -> None:
        """Hold the request against policy and plan."""
        self.limits.check_request(site, asked, now)

    def check_copies(self, asked: Request, instance: str) -> None:
        """Hold the request against this start of the node, the ledger here and the log seen so far."""
        if asked.instance and instance and asked.instance != instance:
            raise PolicyError(
                "instance: the request is for another node with this site's key; was its home copied, or its machine"
                " restored beside the old one? stop one of the two"
            )
        ledger = self.limits.ledger
        if asked.ledger and ledger is not None and ledger.made and asked.ledger not in ledger.hashes():
            raise PolicyError(
                "ledger: the coordinator has seen a newer ledger of this site; this home is an older copy, or a second"
                " one: put back the newest ledger (docs/operations.md, Restored from an older state)"
            )
        if asked.receipt:
            SeenLog(self.home).take(asked.receipt)

    def seen(self) -> int:
        """Return how many entries of the coordinator's log this hospital has seen."""
        return SeenLog(self.home).size()

    def newest_record(self) -> str:
        """Return the hash of the hospital's newest charge."""
        ledger = self.limits.ledger
        return ledger.hashes()[-1] if ledger is not None and ledger.made else ""

    def check_size(self, values: int) -> None:
        """Hold the adapter's size against the policy."""
        self.limits.check_size(values)

    def filter_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics that policy and plan both name."""
        return self.limits.filter_metrics(metrics)

    def ledger(self, terms: PrivacyTerms) -> SiteLedger | None:
        """Return the hospital's ledger; its delta and its limit are the policy's, whatever ``terms`` ask for.

        Raises InputError when another ledger counts for the patients in this site's data folder.
        """
        ledger = self.limits.ledger
        if ledger is not None and ledger.made:
            bind(SiteConfig.load(self.home.site_config).root, ledger)
        return ledger

    def wait(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def count_answer(self, asked: Request) -> None:
        """Note the round in the home's state, and count it there where there is a plan."""
        if asked.vector is not None:
            SeenLog(self.home).note_work(asked.run_id, asked.round, asked.vector)
        if self.limits.plan is not None and self.limits.answers is not None:
            self.limits.answers.add(self.limits.plan_digest.hex(), self.limits.plan.answers)

    def secure_site(self) -> SecureSite:
        """Return the hospital's part, made from its own key, roster, plan and floors.

        Raises PolicyError when the sums would be over a site whose key nobody here has compared.
        """
        cohort = self.home.cohort(self.limits.plan)
        if self.limits.policy.known_peers:
            keys = {name: key.hex() for name, key in zip(cohort.names, cohort.keys, strict=True)}
            unknown = self.home.peers.unknown(keys, self.home.site)
            if unknown:
                raise PolicyError(
                    f"known_peers: {len(unknown)} of {len(keys)} sites are unknown here, such as {unknown[0]}:"
                    " `client trust`"
                )
        return SITES.of_home(
            self.home, self.limits.floors(), self.limits.plan, self.limits.plan_digest, self.limits.ledger
        )


@dataclass(frozen=True, kw_only=True)
class SimulatedGate:
    """A simulated site's gate: it has no policy, so every request and every metric passes.

    ``ledger_folder``: where its ledger is kept, empty for none. ``enrolled_as``: the key under which the simulation has
    enrolled its SecureSite.
    """

    ledger_folder: str = ""
    enrolled_as: str = ""

    def check_request(self, site: SiteConfig, asked: Request, now: datetime) -> None:
        """Let every request pass."""

    def check_copies(self, asked: Request, instance: str) -> None:
        """Let every request pass: a simulation makes each site once."""

    def newest_record(self) -> str:
        """Return nothing: nobody compares."""
        return ""

    def check_size(self, values: int) -> None:
        """Let every size pass."""

    def filter_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return all metrics."""
        return dict(metrics)

    def ledger(self, terms: PrivacyTerms) -> SiteLedger | None:
        """Return a ledger without a limit, made when it is first asked for."""
        if not self.ledger_folder:
            return None
        ledger = SiteLedger(folder=Path(self.ledger_folder), delta=terms.delta)
        ledger.create()
        return ledger

    def seen(self) -> int:
        """Return 0: a simulation has no log."""
        return 0

    def wait(self, seconds: float) -> None:
        """Wait for nothing: nobody takes the time in a simulation."""

    def count_answer(self, asked: Request) -> None:
        """Count nothing: there is no plan."""

    def secure_site(self) -> SecureSite:
        """Return the SecureSite that the simulation has enrolled."""
        return SITES.find_simulated(self.enrolled_as)
