"""The hospital's part in secure aggregation: keeps its state from message to message while the process lives.

Keys and shares are only in memory: a process that ends drops out of the set-up and takes part in the next one. The
record of earlier set-ups and sums must outlive the process, so it is in the site's folder: see
privacy/secagg/replay.py for the reason.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from client.gate.secure_inputs import SecureInputs, inputs_key
from client.site.home import ClientHome
from client.site.seen_log import SeenLog
from privacy.agreement.federation_plan import FederationPlan
from privacy.dp.ledger import SiteLedger
from privacy.secagg.context import Floors, SumTerms, digest
from privacy.secagg.errors import SecAggError
from privacy.secagg.heads import LedgerHead, PeerHeads
from privacy.secagg.layout import Packed
from privacy.secagg.masks import Ring
from privacy.secagg.messages import Adverts, Confirmations, Inbox, Masked, Survivors
from privacy.secagg.replay import FileReplay
from privacy.secagg.site import MaskingSite
from privacy.trust.passphrase import read_private_key
from privacy.trust.public_log import StatisticsEntry
from privacy.trust.signed import private_key
from privacy.wire.messages import Request, StatisticsTask, TrainTask
from privacy.wire.secure_work import config_hash, session_of, work_hash

REPLAY_FILE = "secagg.replay"
INPUTS_FOLDER = "secagg_inputs"
HEADS_FILE = "peer_heads.json"
# Kinds of work whose sums have set-ups beside those of training.
BESIDE = ("evaluate", "statistics")


class SecureSite:
    """Answers the coordinator's messages for one site, one at a time.

    ``plan``: hash of the plan that the site has pinned, empty without one. ``inputs``: where what it puts into sums is
    kept for an audit. ``ledger``: the site's privacy ledger, whose state its peers are shown with each set of keys.
    ``log``: where it notes which sets of sites it signed, to hold the coordinator's log against.
    Sums of scores and of statistics have set-ups of their own beside those of training. Every refusal is a
    SecAggError, whose text may be sent to the coordinator.
    """

    def __init__(
        self,
        site: MaskingSite,
        plan: bytes = b"",
        inputs: SecureInputs | None = None,
        ledger: SiteLedger | None = None,
        log: SeenLog | None = None,
    ) -> None:
        self._site, self._plan, self._inputs, self._ledger, self._log = site, plan, inputs, ledger, log
        self._beside = {kind: site.twin() for kind in BESIDE}
        self._lock = threading.Lock()

    def answer(self, asked: Request) -> Packed:
        """Answer a message of SECURE_KINDS."""
        message = asked.secure
        with self._lock:
            if isinstance(message, SumTerms):
                for kind, site in (("train", self._site), *self._beside.items()):
                    if message.session == session_of(asked, kind):
                        return site.begin(message, config_hash(asked, self._plan), self._show_ledger)
                raise SecAggError("terms", "the terms are for another run than the request")
            if isinstance(message, Adverts):
                return self._of_setup(message.setup).deal(message)
            if isinstance(message, Survivors):
                return self._confirm(asked, message)
            if isinstance(message, Confirmations):
                return self._of_setup(message.setup).reveal(message)
        raise SecAggError("stage", "not a message of secure aggregation that stands alone")

    def _confirm(self, asked: Request, message: Survivors) -> Packed:
        site = self._of_setup(message.setup)
        signed = site.confirm(message)
        if self._log is not None and site is not self._beside["evaluate"]:  # sums of scores are not in the log
            number = asked.round if site is self._site else StatisticsEntry.round
            self._log.note_signed(asked.run_id, number, site.names(message))
        return signed

    def _show_ledger(self) -> bytes:
        if self._ledger is None or not self._ledger.made:
            return b""
        return LedgerHead.of(self._ledger.show()).to_bytes()

    def open(self, asked: Request) -> None:
        """Open the sum that a masked request is for: before the work, and before any budget is charged."""
        if not isinstance(asked.secure, Inbox):
            raise SecAggError("stage", "the request does not ask for a masked answer")
        with self._lock:
            self._check_promise(asked)
            self._of_kind(asked.kind).open_step(asked.secure, work_hash(asked), self._frozen(asked))

    def _of_setup(self, setup: bytes) -> MaskingSite:
        return next((site for site in self._beside.values() if site.holds(setup)), self._site)

    def _of_kind(self, kind: str) -> MaskingSite:
        return self._beside.get(kind, self._site)

    def _frozen(self, asked: Request) -> bytes:
        """Return under which hash the sites of a sum without noise are frozen: the plan's, or without one the run's."""
        if asked.task is None or asked.task.mode != "masked":
            return b""
        return digest("frozen", self._plan or session_of(asked))

    def _check_promise(self, asked: Request) -> None:
        """Refuse a set-up that would accept a sum of fewer sites than the task's terms, or its noise, count on."""
        agreed, promised = self._of_kind(asked.kind).terms, _promised(asked)
        if agreed is None or promised is None:
            return
        bits, survivors, colluders = promised
        if agreed.ring_bits != bits:
            raise SecAggError("terms", "the set-up is for another ring than the task's privacy terms")
        if agreed.least_survivors < survivors or agreed.colluders < colluders:
            raise SecAggError(
                "terms",
                f"the task's terms count on sums of {survivors} sites with {colluders} colluders;"
                f" the set-up would take {agreed.least_survivors} with {agreed.colluders}",
            )

    def mask(self, asked: Request, vector: Ring) -> tuple[Masked, Ring]:
        """Mask the result of the work, (d,) over the terms' ring. The site alone keeps the unmasked one, for audits."""
        with self._lock:
            message, masked, opening = self._of_kind(asked.kind).mask(vector)
        if self._inputs is not None:
            noised = isinstance(asked.task, TrainTask | StatisticsTask) and asked.task.terms is not None
            self._inputs.keep(asked.run_id, asked.round, message.commitment, opening, vector, noised)
        return message, masked

    def end(self) -> None:
        """Forget the open set-up."""
        with self._lock:
            for site in (self._site, *self._beside.values()):
                site.end()


def _promised(asked: Request) -> tuple[int, int, int] | None:
    """Return bits of the ring, fewest survivors and colluders of a task's terms; None for work without terms."""
    exact = asked.task.mask_terms if asked.task is not None else None
    if exact is not None:
        return exact.ring_bits, exact.survivors, exact.colluders
    noise = asked.task.terms if isinstance(asked.task, TrainTask | StatisticsTask) else None
    return None if noise is None else (noise.encoding().bits, noise.survivors, noise.colluders)


@dataclass
class _MadeFrom:
    """What a SecureSite was made from, so that a change of cohort, plan or floors makes a new one."""

    made_from: tuple[bytes, bytes, Floors]
    site: SecureSite
    replay: FileReplay


class SecureSites:
    """The SecureSite of each folder (in a simulation, of each name enrolled) in this process; safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _MadeFrom] = {}
        self._simulated: dict[str, SecureSite] = {}

    def of_home(
        self,
        home: ClientHome,
        floors: Floors,
        plan: FederationPlan | None = None,
        plan_digest: bytes = b"",
        ledger: SiteLedger | None = None,
    ) -> SecureSite:
        """Return the site of a hospital's folder, from its own identity, roster, pinned plan and floors.

        ``plan_digest``: SHA-256 of the plan's file. InputError where the folder's documents or key cannot be used.
        """
        cohort = home.cohort(plan)
        made_from, key = (cohort.digest, plan_digest, floors), str(home.folder)
        with self._lock:
            known = self._known.get(key)
            if known is not None and known.made_from == made_from:
                return known.site
            identity = private_key(read_private_key(home.identity_key))
            replay = known.replay if known is not None else FileReplay(home.folder / "state" / REPLAY_FILE)
            try:
                site = MaskingSite(
                    name=home.site,
                    identity=identity,
                    cohort=cohort,
                    floors=floors,
                    replay=replay,
                    heads=PeerHeads(home.folder / "state" / HEADS_FILE),
                )
            except SecAggError:
                if known is None:  # or the file would be locked although no site holds it
                    replay.close()
                raise
            if known is not None:
                known.site.end()
            inputs = SecureInputs(home.folder / "state" / INPUTS_FOLDER, inputs_key(identity))
            secure = SecureSite(site, plan_digest, inputs, ledger, SeenLog(home))
            self._known[key] = _MadeFrom(made_from, secure, replay)
            return secure

    def enrol(self, key: str, site: SecureSite) -> None:
        """Enrol a simulated site under ``key``; it replaces an earlier one."""
        with self._lock:
            self._simulated[key] = site

    def find_simulated(self, key: str) -> SecureSite:
        """Return the simulated site known by ``key``; SecAggError where none is."""
        with self._lock:
            if key not in self._simulated:
                raise SecAggError("roster", "this site has no identity to take part in secure aggregation with")
            return self._simulated[key]

    def forget(self, key: str) -> None:
        """Remove a simulated site and all its secrets."""
        with self._lock:
            self._simulated.pop(key).end()

    def close(self) -> None:
        """Release all files and forget all secrets."""
        with self._lock:
            for known in self._known.values():
                known.site.end()
                known.replay.close()
            for site in self._simulated.values():
                site.end()
            self._known.clear()
            self._simulated.clear()


# All sites of this process: one in a hospital's executor, many in a simulation.
SITES = SecureSites()
