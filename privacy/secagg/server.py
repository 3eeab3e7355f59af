"""The coordinator's part in secure aggregation: who is in a set-up, and one ``Summation`` for each of its steps.

A refused message changes nothing. The caller drops the site that sent it, or the sites that the error blames, and goes
on with the others. When too few sites are left, the step ends with an error and the next step may begin.
"""

from __future__ import annotations

from privacy.secagg.context import Cohort, SumTerms, deal_context, setup_context, to_sign
from privacy.secagg.dealing import check_adverts, check_deal
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import Advert, Adverts, Complaint, Deal, Inbox
from privacy.secagg.summation import Dealt, Summation


class Server:
    """One set-up under ``terms``: ``add_advert``s, ``adverts``, ``add_deal``s, then up to ``terms.steps`` steps."""

    def __init__(self, terms: SumTerms, cohort: Cohort) -> None:
        terms.check(cohort)
        self.terms, self.cohort = terms, cohort
        self.setup = setup_context(terms, cohort)
        self._adverts: dict[int, Advert] = {}
        self._deals: dict[int, Deal] = {}
        self._deal_hash: bytes | None = None
        self._dealt: Dealt | None = None
        self._complaints: dict[int, set[int]] = {}
        self._steps = 0

    @property
    def steps_left(self) -> int:
        """How many steps of this set-up are not opened yet."""
        return self.terms.steps - self._steps

    @property
    def dealers(self) -> tuple[str, ...]:
        """Names of the sites that dealt shares. Only these sites can take part in a step."""
        return tuple(self.cohort.name(site) for site in sorted(self._deals))

    def add_advert(self, site: str, advert: Advert) -> None:
        """Accept a site's keys; SecAggError when they are not its own or came before."""
        index = self.cohort.index(site)
        if index in self._adverts or self._deal_hash is not None:
            raise SecAggError("stage", f"keys of {site} came twice or too late", [site])
        check_adverts({index: advert}, self.setup, self.cohort, self.terms.steps, self._adverts.values())
        self._adverts[index] = advert

    def adverts(self) -> Adverts:
        """Close the first stage. Return what every site with keys is sent."""
        self._check_enough(len(self._adverts), "have keys")
        content = {site: self._adverts[site].to_bytes() for site in sorted(self._adverts)}
        self._deal_hash = deal_context(self.setup, list(content.values()))
        return Adverts(setup=self.setup, round=self.terms.round, adverts=content)

    def add_deal(self, site: str, deal: Deal) -> None:
        """Accept a site's shares for the others; SecAggError when they are incomplete or came before."""
        index = self.cohort.index(site)
        if self._deal_hash is None or self._dealt is not None or index not in self._adverts or index in self._deals:
            raise SecAggError("stage", f"shares of {site} came twice, too early or too late", [site])
        check_deal(deal, index, self._deal_hash, set(self._adverts), self.terms.steps, self.cohort)
        self._deals[index] = deal

    def add_complaint(self, site: str, complaint: Complaint) -> None:
        """Note whose shares a site cannot use; SecAggError unless that site signed it for this set-up."""
        index = self.cohort.index(site)
        if complaint.site != index or self._deal_hash is None or index not in self._adverts:
            raise SecAggError("stage", f"{site} sent a complaint that is not its own", [site])
        signed = to_sign("complaint", self._deal_hash, complaint.body_to_sign())
        self.cohort.verify(index, complaint.signature, signed)
        for dealer in set(complaint.dealers) & set(self._adverts) - {index}:
            self._complaints.setdefault(dealer, set()).add(index)

    def proven_bad(self) -> tuple[str, ...]:
        """Names of the sites that more than t others complain of: at least one of these is honest."""
        bad = [dealer for dealer, by in self._complaints.items() if len(by) > self.terms.colluders]
        return tuple(self.cohort.name(dealer) for dealer in sorted(bad))

    def open_step(self, round_number: int, model: bytes) -> Summation:
        """Close the second stage if it is open, and begin the next sum. ``model``: hash of what the sites work on."""
        self._check_enough(len(self._deals), "dealt shares")
        if self._deal_hash is None or self.steps_left == 0:
            raise SecAggError("stage", "this set-up has no step left; make a new set-up")
        if self._dealt is None:
            self._dealt = Dealt(
                terms=self.terms,
                cohort=self.cohort,
                setup=self.setup,
                hash=self._deal_hash,
                signed={site: advert.to_bytes() for site, advert in self._adverts.items()},
                adverts={site: self._adverts[site] for site in self._deals},
                commitments={site: deal.commitments for site, deal in self._deals.items()},
            )
        step, self._steps = self._steps, self._steps + 1
        return Summation(self._dealt, step, round_number, model)

    def inbox(self, site: str, step: Summation) -> Inbox:
        """Return what opens the step for one site."""
        index = self.cohort.index(site)
        if index not in self._deals:
            raise SecAggError("stage", f"{site} dealt no shares in this set-up", [site])
        others = sorted(set(self._deals) - {index})
        return Inbox(
            setup=self.setup,
            round=step.round,
            step=step.number,
            boxes={other: self._deals[other].boxes[index] for other in others},
            commitments={other: self._deals[other].commitments[index] for other in others},
        )

    def _check_enough(self, sites: int, what: str) -> None:
        least = self.terms.least_survivors
        if sites < least:
            raise SecAggError("too_few", f"{sites} sites {what}; the terms want at least {least}")
