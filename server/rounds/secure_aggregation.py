"""Sum the sites' vectors so that nobody sees a single one: run privacy/secagg over exchanges with the sites.

``SecureAggregation.sum`` makes one exchange with masks (the work), one to agree on who is in the sum, and one to take
the masks off. Every few sums it makes two more to set up keys. A site that fails or lies at any stage is dropped by
name and reason. The sum goes on with the others or ends as a failed attempt. The next attempt reuses nothing of it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict

from privacy.secagg.audit import SumRecord
from privacy.secagg.context import Cohort, SumTerms
from privacy.secagg.errors import ROUND_SPENT, SecAggError
from privacy.secagg.layout import Packed
from privacy.secagg.masks import Ring
from privacy.secagg.messages import Advert, Complaint, Confirmation, Deal, Masked, Reveal
from privacy.secagg.server import Server
from privacy.secagg.summation import Summation
from privacy.wire.messages import Reply, wire_bytes
from privacy.wire.secure_records import with_secure
from privacy.wire.secure_work import config_hash, session_of, work_hash
from privacy.wire.tasks import Task
from server.record.history import Drop
from server.rounds.steps import Link, Witness
from server.sites.attendance import ConnectedSite
from server.sites.exchange import Exchange
from shared_model.core.vector import Vector

SAME_SITES = "sums without noise stay over the same sites"


@dataclass(frozen=True, kw_only=True)
class SecureRules:
    """Numbers of a run's secure aggregation, all in the signed federation plan. ``SumTerms`` says what they must be.

    ``steps``: sums per set-up. ``deadline_s``: time for the work; ``stage_s``: time for a stage that only exchanges
    keys, signatures or shares. ``threads``: threads of the coordinator that take masks off.
    """

    threshold: int
    least_survivors: int
    colluders: int
    ring_bits: int
    steps: int = 8
    deadline_s: float
    stage_s: float = 60.0
    threads: int = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class SecureOutcome:
    """One attempt at a sum. ``total``: (d,) sum of ``sites``' vectors modulo the ring, None when the attempt failed.

    ``failed``: why, in words. ``record``: what was signed for the sum, for an audit (privacy/secagg/audit.py); None
    when the attempt failed. Metrics come from the sites and are not masked. ``spent``: sites have
    been asked to reveal shares for this round, now or before. Sites that add no noise then refuse any other sum of this
    round: go on with the next one.
    """

    total: Ring | None
    sites: tuple[str, ...]
    record: SumRecord | None
    per_site: Mapping[str, Mapping[str, float]]
    drops: tuple[Drop, ...]
    failed: str
    spent: bool
    wire_bytes: int
    wall_s: float


@dataclass
class _Account:
    """Drops, metrics and bytes that an attempt collects while it runs."""

    witness: Witness
    attempt: int = 1
    drops: list[Drop] = field(default_factory=list)
    per_site: dict[str, dict[str, float]] = field(default_factory=dict)
    wire_bytes: int = 0

    # Whether a site no longer has this set-up. Only a new set-up can include that site again.
    lost: bool = False
    spent: bool = False

    def drop(self, site: str, reason: str, detail: str = "") -> None:
        drop = Drop(site=site, reason=reason, detail=detail, attempt=self.attempt)
        self.drops.append(drop)
        self.spent |= detail.endswith(ROUND_SPENT)
        self.lost |= reason == "refused" and detail.startswith("secure")
        self.witness(site, drop)


class SecureAggregation:
    """Secure sums of one run. ``cohort``: sites of the pinned roster; ``plan``: hash of the signed plan, or empty.

    ``kind``: the work, train or evaluate. ``frozen``: the sites that every further sum is over, empty for any.
    """

    def __init__(
        self, link: Link, cohort: Cohort, rules: SecureRules, plan: bytes = b"", *, kind: str = "train"
    ) -> None:
        self._link, self._cohort, self._rules, self._plan, self._kind = link, cohort, rules, plan, kind
        self.frozen: frozenset[str] = frozenset()
        self._server: Server | None = None
        self._asked: set[str] = set()
        self._excluded: set[str] = set()

    def sum(
        self,
        sites: Sequence[ConnectedSite],
        length: int,
        witness: Witness,
        *,
        round_number: int = 0,
        task: Task | None = None,
        vector: Vector | None = None,
        attempt: int = 1,
    ) -> SecureOutcome:
        """Have the sites work and sum their masked vectors of ``length`` ring numbers.

        ``witness`` is called for every drop. A task's round must equal ``round_number``. Raises SecAggError for terms
        or a roster that no site could accept. Mistakes of the sites never raise: at worst the outcome is a failed one.
        """
        started = time.monotonic()
        account = _Account(witness, attempt)
        nodes = {s.name: s.node for s in sites if s.name in self._cohort.names and s.name not in self._excluded}
        total, step, failed = None, None, ""
        try:
            server = self._ensure_setup(nodes, round_number, length, account)
            step = server.open_step(round_number, work_hash(self._link.make_request(self._kind, task, vector)))
            total = self._run(server, step, nodes, account, task, vector)
        except SecAggError as error:
            if error.code in ("terms", "roster"):
                raise
            failed = str(error)
            self._blame(error, account)
        if failed or account.lost:
            self._server = None
        in_sum = () if step is None or total is None else tuple(step.inputs)
        return SecureOutcome(
            total=total,
            sites=in_sum,
            record=None if step is None or total is None else SumRecord.of(step, total),
            per_site={site: account.per_site[site] for site in in_sum},
            drops=tuple(sorted(account.drops, key=lambda drop: (drop.site, drop.reason))),
            failed=failed,
            spent=account.spent,
            wire_bytes=account.wire_bytes,
            wall_s=time.monotonic() - started,
        )

    def _ensure_setup(self, nodes: Mapping[str, int], round_number: int, length: int, account: _Account) -> Server:
        """Return a set-up with a step left for enough of these sites. Make a new one if there is none."""
        server = self._server
        # A set-up works only for its own length. A site that it never asked needs a new set-up.
        if server is not None and server.terms.length == length and server.steps_left:
            here = len(set(server.dealers) & set(nodes))
            if self._asked >= set(nodes) and here >= server.terms.least_survivors:
                return server
        self._server, self._asked = None, set(nodes)
        self._server = self._set_up(nodes, round_number, length, account)
        return self._server

    def _set_up(self, nodes: Mapping[str, int], round_number: int, length: int, account: _Account) -> Server:
        asked, rules = self._link.make_request("describe"), self._rules
        terms = SumTerms(
            session=session_of(asked, self._kind),
            nonce=secrets.token_bytes(16),
            round=round_number,
            steps=rules.steps,
            config=config_hash(asked, self._plan),
            roster=self._cohort.digest,
            threshold=rules.threshold,
            least_survivors=rules.least_survivors,
            colluders=rules.colluders,
            ring_bits=rules.ring_bits,
            length=length,
        )
        self._server = server = Server(terms, self._cohort)  # complaints may come from here on
        self._stage("secure_keys", terms, list(nodes), nodes, account, Advert, server.add_advert)
        adverts = server.adverts()
        have_keys = [self._cohort.name(site) for site in adverts.adverts]
        self._stage("secure_shares", adverts, have_keys, nodes, account, Deal, server.add_deal)
        return server

    def _run(
        self,
        server: Server,
        step: Summation,
        nodes: Mapping[str, int],
        account: _Account,
        task: Task | None,
        vector: Vector | None,
    ) -> Ring:
        dealers, kind = [site for site in server.dealers if site in nodes], self._kind
        content = self._link.request(kind, task, vector, server.inbox(dealers[0], step))
        contents = {site: with_secure(content, kind, server.inbox(site, step)) for site in dealers}

        def add(site: str, reply: Reply) -> None:
            if not isinstance(reply.secure, Masked) or reply.ring is None:
                raise SecAggError("stage", f"{site} sent no masked vector", [site])
            step.add_masked(site, reply.secure, reply.ring)
            account.per_site[site] = dict(reply.metrics)

        self._exchange(kind, step.round, contents, nodes, self._rules.deadline_s, account, add)
        survivors = step.survivors()
        names = [self._cohort.name(site) for site in survivors.sites]
        missing = sorted(self.frozen - set(names))
        if missing:
            raise SecAggError("too_few", f"{', '.join(missing)} sent no vector, and {SAME_SITES}")
        self._stage("secure_confirm", survivors, names, nodes, account, Confirmation, step.add_confirmation)
        confirmations = step.confirmations()
        account.spent = True
        names = [self._cohort.name(site) for site in confirmations.signatures]
        self._stage("secure_reveal", confirmations, names, nodes, account, Reveal, step.add_reveal)
        return step.total(self._rules.threads)

    def _stage(
        self,
        kind: str,
        message: Packed,
        sites: Sequence[str],
        nodes: Mapping[str, int],
        account: _Account,
        expected: type[Packed],
        take: Callable[..., None],
    ) -> None:
        """Send one message of the protocol to the sites and pass their answers to ``take``."""
        content = self._link.request(kind, secure=message)

        def add(site: str, reply: Reply) -> None:
            if not isinstance(reply.secure, expected):
                raise SecAggError("stage", f"{site} sent another message than it was asked for", [site])
            take(site, reply.secure)

        round_number = self._link.make_request(kind, secure=message).round
        self._exchange(kind, round_number, dict.fromkeys(sites, content), nodes, self._rules.stage_s, account, add)

    def _exchange(
        self,
        kind: str,
        round_number: int,
        contents: Mapping[str, RecordDict],
        nodes: Mapping[str, int],
        deadline_s: float,
        account: _Account,
        add: Callable[[str, Reply], None],
    ) -> None:
        exchange = Exchange(self._link.grid, kind=kind, round_number=round_number, run_id=self._link.run_id)
        named = {nodes[site]: site for site in contents}
        unsent = exchange.send_each({nodes[site]: c for site, c in contents.items()}, named, deadline_s)
        reached = set(named.values()) - {answer.site for answer in unsent}
        account.wire_bytes += sum(wire_bytes(contents[site]) for site in reached)
        for answer in unsent:
            account.drop(answer.site, "error", "the request could not be sent")
        for answer in exchange.answers():
            account.wire_bytes += answer.wire_bytes
            if answer.drop is not None:
                account.drop(answer.drop.site, answer.drop.reason, answer.drop.detail)
            if isinstance(answer.complaint, Complaint):
                self._hear(answer.site, answer.complaint, account)
            if answer.reply is not None:
                try:
                    add(answer.site, answer.reply)
                except SecAggError as error:
                    account.drop(answer.site, "secure", str(error))

    def _hear(self, site: str, complaint: Complaint, account: _Account) -> None:
        """Note a signed complaint. A dealer that more than t sites complain of takes no part in later set-ups."""
        if self._server is None:
            return
        try:
            self._server.add_complaint(site, complaint)
        except SecAggError as error:
            account.drop(site, "secure", str(error))
            return
        for dealer in set(self._server.proven_bad()) - self._excluded:
            self._excluded.add(dealer)
            account.lost = True
            account.drop(dealer, "secure", f"more than {self._rules.colluders} sites signed that its shares are bad")

    def _blame(self, error: SecAggError, account: _Account) -> None:
        """Exclude a site from all later set-ups when its own signed messages prove it wrong."""
        for site in error.blamed:
            self._excluded.add(site)
            account.drop(site, "secure", str(error))
