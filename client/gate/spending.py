"""What a private task costs at this site, and the ledger that it is written to before anything leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from client.gate.gates import Gate
from privacy.dp.ledger import SiteLedger
from privacy.dp.ledger_record import LedgerEntry
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import Request, StatisticsTask, TrainTask
from shared_model.core.errors import PolicyError


@dataclass(frozen=True, kw_only=True)
class Account:
    """The charge of one train task, or of statistics. A repeated round is another release and is charged again."""

    ledger: SiteLedger
    run_id: str
    task: TrainTask | StatisticsTask
    terms: PrivacyTerms
    wait: Callable[[float], None] = time.sleep
    asked_at: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise PolicyError if the site cannot pay it. Call this before any work is done for the task.

        Also when a later round of the run is paid already: then the coordinator's folder is an older copy, and it would
        have every round since then released, and paid, a second time.
        """
        paid = max((e.round for e in self.ledger.entries() if e.run_id == self.run_id), default=0)
        if paid > self.task.round:
            raise PolicyError(
                f"round: this site has released round {paid} of this run; the coordinator's folder is older than that:"
                " put back a newer one, or begin a run with another name"
            )
        self.ledger.check(self.terms.charge(self.task.releases), self._ahead)

    def spend(self) -> None:
        """Write the charge to the ledger. If this raises PolicyError or InputError, nothing may leave."""
        entry = LedgerEntry(
            purpose="statistics" if isinstance(self.task, StatisticsTask) else self.terms.mode,
            run_id=self.run_id,
            round=self.task.round,
            charge=self.terms.charge(self.task.releases),
        )
        self.ledger.charge(entry, self._ahead)

    def hold(self) -> None:
        """Wait for the next multiple of the terms' ``hold_s`` since the site was asked. Nothing where it is 0.

        Work that took longer than one of them leaves at the second or a later one, which tells so much of its time.
        """
        if self.terms.hold_s > 0.0:
            passed = time.monotonic() - self.asked_at
            self.wait(math.ceil(passed / self.terms.hold_s) * self.terms.hold_s - passed)

    @property
    def _ahead(self) -> int:
        return self.task.rounds - self.task.round


def account_for(gate: Gate, asked: Request) -> Account | None:
    """Return the cost of the request, after checking that the ledger can still pay it; None if it costs nothing."""
    if not isinstance(asked.task, TrainTask | StatisticsTask) or asked.task.terms is None:
        return None
    ledger = gate.ledger(asked.task.terms)
    if ledger is None or not ledger.made:
        raise PolicyError("ledger: this site keeps no privacy ledger, so it releases nothing under noise")
    account = Account(ledger=ledger, run_id=asked.run_id, task=asked.task, terms=asked.task.terms, wait=gate.wait)
    account.check()
    return account
