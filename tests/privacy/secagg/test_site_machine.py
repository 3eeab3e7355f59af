"""The site against a coordinator that sends anything in any order, with one colluding site: a state machine.

Whatever it does, a site reveals one kind of a peer's two shares, once, for the survivors that it signed itself; no two
contradicting sets open; and no set that opens has fewer than m - t honest sites.
"""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from privacy.secagg.context import least_threshold, step_context, to_sign
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import KEY, SEED, Confirmations, Reveal, Survivors
from tests.builders.secagg_rounds import CONFIG, MODEL, Federation, name, sent

SIZE, T = 5, least_threshold(5, 1)
COLLUDER = 4  # of whom the coordinator has all keys
HONEST = range(4)
MODELS = (MODEL, b"other---" * 4)
SITES = st.sampled_from(HONEST)
SETS = st.one_of(st.just((0, 1, 2, 3, 4)), st.sets(st.integers(0, 4), min_size=2).map(lambda s: tuple(sorted(s))))


class Coordinator(RuleBasedStateMachine):
    """Plays the coordinator, and remembers what it was given."""

    @initialize(least=st.sampled_from((T, SIZE)), strict=st.booleans())
    def federation(self, least: int, strict: bool) -> None:
        self.all = Federation(size=SIZE, steps=2, length=8, least=least, strict=strict)
        self.replays = {i: site._replay for i, site in self.all.sites.items()}
        self.number, self.step = 0, 0
        # By set-up, step and receiver: how often it revealed, and which kind of each dealer's shares.
        self.reveals: Counter[tuple[bytes, int, int]] = Counter()
        self.kinds: dict[tuple[bytes, int, int], Counter[int]] = defaultdict(Counter)
        self.all.set_up()
        self.of_step()

    def of_step(self) -> None:
        self.opened = self.all.server.open_step(self.step + 1, MODEL)
        self.signed: dict[tuple[int, ...], dict[int, bytes]] = defaultdict(dict)
        self.own: dict[int, tuple[int, ...]] = {}

    @property
    def setup(self) -> bytes:
        return self.all.server.setup

    def survivors(self, sites: tuple[int, ...]) -> Survivors:
        return Survivors(setup=self.setup, round=self.opened.round, step=self.opened.number, sites=sites)

    def open_and_mask(self, i: int, model: bytes) -> None:
        try:
            self.all.sites[i].open_step(sent(self.all.server.inbox(name(i), self.opened)), model)
            self.all.sites[i].mask(self.all.inputs(0)[i])
        except SecAggError:
            return

    def confirm(self, i: int, sites: tuple[int, ...]) -> None:
        try:
            self.signed[sites][i] = self.all.sites[i].confirm(sent(self.survivors(sites))).signature
        except SecAggError:
            return
        self.own[i] = sites

    def reveal(self, i: int, sites: tuple[int, ...], few: int) -> None:
        """Show site i signatures of the others over ``sites``, and the colluder's, which signs everything."""
        signatures = dict(self.signed[sites])
        if COLLUDER in sites:
            body = to_sign("survivors", self.opened.context, self.survivors(sites).signed_part())
            signatures[COLLUDER] = self.all.keys[COLLUDER].sign(body)
        shown = dict(sorted(signatures.items())[few:])
        if not shown:  # a message without signatures cannot even be written
            return
        message = Confirmations(setup=self.setup, round=self.opened.round, step=self.opened.number, signatures=shown)
        try:
            self.note(i, sites, self.all.sites[i].reveal(sent(message)))
        except SecAggError:
            return

    def note(self, i: int, sites: tuple[int, ...], revealed: Reveal) -> None:
        assert self.own[i] == sites, "it revealed for a set that it did not sign"
        kinds = {dealer: share[0] for dealer, share in revealed.shares.items()}
        assert kinds == {dealer: SEED if dealer in sites else KEY for dealer in range(SIZE)}
        assert len(set(sites) & set(HONEST)) >= self.all.terms.least_survivors - 1
        self.reveals[self.setup, self.opened.number, i] += 1
        for dealer, kind in kinds.items():
            self.kinds[self.setup, self.opened.number, dealer][kind] += 1

    @rule(odd=st.one_of(st.none(), SITES))
    def work_is_asked_of_all(self, odd: int | None) -> None:
        for i in HONEST:
            self.open_and_mask(i, MODELS[i == odd])

    @rule(i=SITES, model=st.sampled_from(MODELS))
    def work_is_asked_of_one(self, i: int, model: bytes) -> None:
        self.open_and_mask(i, model)

    @rule(sites=SETS, others=SETS, told=st.sets(SITES))
    def survivors_are_named(self, sites: tuple[int, ...], others: tuple[int, ...], told: set[int]) -> None:
        for i in HONEST:
            self.confirm(i, others if i in told else sites)

    @rule(few=st.integers(0, 2))
    def shares_are_asked_of_all(self, few: int) -> None:
        for i, sites in list(self.own.items()):
            self.reveal(i, sites, few)

    @rule(gone=st.integers(-1, 4), few=st.integers(0, 1))
    def a_sum_goes_all_the_way_and_is_asked_for_again(self, gone: int, few: int) -> None:
        """Over all sites or all but one, without one signature perhaps. By chance alone that order is seldom met."""
        sites = tuple(i for i in range(SIZE) if i != gone)
        self.work_is_asked_of_all(None)
        self.survivors_are_named(sites, sites, set())
        self.shares_are_asked_of_all(few)
        self.shares_are_asked_of_all(few)

    @rule(i=SITES, sites=SETS)
    def shares_are_asked_of_one(self, i: int, sites: tuple[int, ...]) -> None:
        self.reveal(i, sites, 0)

    @rule(i=SITES)
    def a_site_starts_again(self, i: int) -> None:
        self.all.sites[i] = self.all.site(i, replay=self.replays[i])

    @rule()
    def the_next_step_opens(self) -> None:
        if self.all.server.steps_left:
            self.step += 1
            self.of_step()

    @rule()
    def a_new_set_up_begins(self) -> None:
        self.number += 1
        terms = replace(self.all.terms, nonce=self.number.to_bytes(16, "big"), round=self.step + 2)
        self.all.renewed(**vars(terms))
        try:
            self.all.set_up()
        except SecAggError:  # a round that is over: the coordinator goes on with the next one
            return
        self.step += 1
        self.of_step()

    @rule(i=SITES)
    def an_old_set_up_is_proposed_again(self, i: int) -> None:
        try:
            self.all.sites[i].begin(self.all.terms, CONFIG)
        except SecAggError:
            return
        raise AssertionError("a set-up was begun twice")

    @invariant()
    def each_site_reveals_once(self) -> None:
        assert all(count == 1 for count in self.reveals.values())

    @invariant()
    def no_peer_is_opened_both_ways(self) -> None:
        """The colluder has one share of each kind of its own."""
        for found in self.kinds.values():
            assert min(found[SEED], found[KEY]) + 1 < T


def test_the_colluder_knows_the_context_that_it_signs() -> None:
    """Or the machine would only ever show signatures that do not fit."""
    found = Federation(size=SIZE, length=8)
    found.set_up()
    step = found.server.open_step(1, MODEL)
    context = step_context(step.dealt.hash, sorted(step.dealt.adverts), 0, 1, MODEL)
    assert context == step.context
    machine = Coordinator()
    machine.federation(SIZE, True)
    machine.work_is_asked_of_all(None)
    machine.survivors_are_named((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), set())
    machine.shares_are_asked_of_all(0)
    assert sum(machine.reveals.values()) == len(HONEST)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("least", [T, SIZE])
def test_every_way_of_a_sum_that_chance_may_not_meet(least: int, strict: bool) -> None:
    """The machine's own rules and invariants, over all sites or all but one, with all signatures or one less."""
    for gone in range(-1, SIZE):
        for few in (0, 1):
            machine = Coordinator()
            machine.federation(least, strict)
            machine.a_sum_goes_all_the_way_and_is_asked_for_again(gone, few)
            machine.each_site_reveals_once()
            machine.no_peer_is_opened_both_ways()


test_whatever_the_coordinator_does = Coordinator.TestCase
test_whatever_the_coordinator_does.settings = settings(max_examples=30, stateful_step_count=10, deadline=None)
