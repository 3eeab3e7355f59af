"""A site's side of one set-up: its keys, the shares that it deals, and the shares that it receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import x25519

from privacy.secagg.context import Cohort, SumTerms, deal_context, digest, setup_context, to_sign
from privacy.secagg.dealing import (
    Identity,
    StepSecrets,
    agree,
    check_adverts,
    derive,
    make_advert,
    make_deal,
    open_box,
)
from privacy.secagg.errors import SecAggError
from privacy.secagg.heads import PeerHeads
from privacy.secagg.messages import Advert, Adverts, Complaint, Deal, Inbox


@dataclass
class SiteSetup:
    """Starts with fresh secrets for every step. ``deal`` and ``take`` each add, once, what their message says."""

    terms: SumTerms
    cohort: Cohort
    site: int
    identity: Identity
    ledger: bytes = b""
    heads: PeerHeads = field(default_factory=PeerHeads)
    share_key: x25519.X25519PrivateKey = field(default_factory=x25519.X25519PrivateKey.generate)
    steps: list[StepSecrets] = field(init=False)
    hash: bytes = field(init=False)
    advert: Advert = field(init=False)
    adverts: dict[int, Advert] = field(default_factory=dict)
    deal_hash: bytes | None = None
    dealers: set[int] = field(default_factory=set)
    _inbox: bytes | None = None

    def __post_init__(self) -> None:
        self.steps = [StepSecrets() for _ in range(self.terms.steps)]
        self.hash = setup_context(self.terms, self.cohort)
        self.advert = make_advert(self.site, self.hash, self.share_key, self.steps, self.identity, self.ledger)

    def deal(self, message: Adverts) -> Deal:
        """Check the keys of all sites and share this site's secrets among them."""
        if self.deal_hash is not None:
            raise SecAggError("stage", "shares were dealt already")
        self.check_enough(len(message.adverts), "have keys")
        if message.adverts.get(self.site) != self.advert.to_bytes():
            raise SecAggError("keys", "this site's own keys were left out or changed")
        adverts = {site: Advert.from_bytes(data) for site, data in message.adverts.items()}
        check_adverts(adverts, self.hash, self.cohort, self.terms.steps)
        deal_hash = deal_context(self.hash, [message.adverts[site] for site in sorted(adverts)])
        self._see_ledgers(adverts, deal_hash)
        self.deal_hash = deal_hash
        self.adverts = adverts
        return make_deal(
            self.site,
            self.deal_hash,
            self.terms.threshold,
            self.share_key,
            self.steps,
            adverts,
            self.cohort,
            self.identity,
        )

    def _see_ledgers(self, adverts: Mapping[int, Advert], deal_hash: bytes) -> None:
        """Refuse, with a signed complaint, to deal shares to a peer whose privacy ledger went back."""
        others = {site: advert for site, advert in adverts.items() if site != self.site}
        names = {self.cohort.name(site): site for site in others}
        shown = {self.cohort.keys[s].hex(): (self.cohort.name(s), advert.ledger) for s, advert in others.items()}
        try:
            self.heads.see(shown)
        except SecAggError as error:
            error.complaint = self._complaint(tuple(names[name] for name in error.blamed), deal_hash)
            raise

    def take(self, message: Inbox) -> bytes:
        """Open the boxes once and refuse other boxes later. Return the hash that covers all dealt shares and keys."""
        if self.deal_hash is None:
            raise SecAggError("stage", "no shares were dealt yet")
        found = _digest(message)
        if self._inbox is None:
            self._open(message, self.deal_hash)
            self._inbox = found
        elif self._inbox != found:
            raise SecAggError("shares", "other shares than in this set-up's first step")
        return self.deal_hash

    def check_enough(self, sites: int, what: str) -> None:
        """Raise SecAggError when there are fewer sites than a sum that counts must have."""
        if sites < self.terms.least_survivors:
            least = self.terms.least_survivors
            raise SecAggError("too_few", f"{sites} sites {what}; the terms want at least {least}")

    def wipe(self) -> None:
        """Forget the secrets of every step."""
        for secrets in self.steps:
            secrets.wipe()

    def _open(self, message: Inbox, deal_hash: bytes) -> None:
        others = set(message.boxes)
        if others != set(message.commitments) or not others <= set(self.adverts) or self.site in others:
            raise SecAggError("shares", "shares from sites that are not in this set-up")
        self.check_enough(len(others) + 1, "dealt shares")
        opened, bad = {}, {}
        for dealer in sorted(others):
            try:
                opened[dealer] = self._open_box(message, deal_hash, dealer)
            except SecAggError as error:
                bad[dealer] = error
        if bad:
            first = next(iter(bad.values()))
            first.complaint = self._complaint(tuple(bad), deal_hash)
            raise first
        for dealer, pairs in opened.items():
            for secrets, pair in zip(self.steps, pairs, strict=True):
                secrets.held[dealer] = pair
        self.dealers = others | {self.site}

    def _complaint(self, dealers: tuple[int, ...], deal_hash: bytes) -> Complaint:
        unsigned = Complaint(site=self.site, dealers=dealers, signature=bytes(64))
        signature = self.identity.sign(to_sign("complaint", deal_hash, unsigned.body_to_sign()))
        return Complaint(site=self.site, dealers=dealers, signature=signature)

    def _open_box(self, message: Inbox, deal_hash: bytes, dealer: int) -> list[tuple[bytes, bytes]]:
        shared = agree(self.share_key, self.adverts[dealer].share_key, self.cohort, dealer)
        key = derive(shared, "box", deal_hash, dealer, self.site)
        commitments = message.commitments[dealer]
        pairs = open_box(message.boxes[dealer], commitments, key, deal_hash, dealer, self.site, self.cohort)
        if len(pairs) != self.terms.steps:
            name = self.cohort.name(dealer)
            raise SecAggError("shares", f"the shares of {name} are for another number of steps", [name])
        return pairs


def _digest(message: Inbox) -> bytes:
    parts = [message.boxes, message.commitments]
    entries = [[site.to_bytes(2, "big") + part[site] for site in sorted(part)] for part in parts]
    return digest("inbox", *(digest("inbox part", *found) for found in entries))
