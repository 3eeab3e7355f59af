"""A hostile coordinator or site against secure aggregation: honest sites refuse, each attack in its own test.

Every test plays the part of the attacker with the honest code's own messages, and ends where an honest party stops it.
"""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from privacy.secagg.context import Cohort, Floors, to_sign
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import KEY, SEED, Adverts, Confirmations, Survivors
from privacy.secagg.replay import FileReplay
from privacy.secagg.server import Server
from privacy.secagg.shamir import join, split
from privacy.secagg.site import MaskingSite
from shared_model.core.fields import MessageError
from tests.builders.secagg_rounds import CONFIG, MODEL, Federation, name, plain_sum, sent


def refused(code: str, call, *arguments) -> SecAggError:
    """The refusal of a call, which must be for this reason."""
    with pytest.raises(SecAggError) as caught:
        call(*arguments)
    assert caught.value.code == code, caught.value
    return caught.value


def masked_federation(**settings) -> tuple[Federation, object, dict]:
    federation = Federation(**settings)
    federation.set_up()
    vectors = federation.inputs(0)
    return federation, federation.mask(vectors), vectors


# Keys


def with_advert(adverts: Adverts, site: int, advert) -> Adverts:
    return sent(replace(adverts, adverts={**adverts.adverts, site: advert.to_bytes()}))


def forged(federation: Federation, site: int, key: ed25519.Ed25519PrivateKey | None):
    """An advert in a site's name with keys of the attacker's, signed by ``key`` or not at all."""
    attacker = Federation(size=federation.size, steps=federation.steps)
    advert = attacker.sites[site].begin(attacker.terms, CONFIG)
    if key is None:
        return replace(advert, signature=bytes(64))
    signature = key.sign(to_sign("advert", federation.server.setup, advert.body_to_sign()))
    return replace(advert, signature=signature)


def test_server_in_the_middle_cannot_put_its_own_keys_in_place_of_a_sites():
    federation = Federation()
    adverts = federation.exchange_keys()
    evil = ed25519.Ed25519PrivateKey.generate()
    error = refused("signature", federation.sites[0].deal, with_advert(adverts, 2, forged(federation, 2, evil)))
    assert error.blamed == (name(2),)


def test_unsigned_keys_are_refused():
    federation = Federation()
    adverts = federation.exchange_keys()
    refused("signature", federation.sites[0].deal, with_advert(adverts, 2, forged(federation, 2, None)))


def test_one_changed_key_under_a_true_signature_is_refused():
    federation = Federation()
    adverts = federation.exchange_keys()
    own = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    true = federation.server._adverts[2]
    for changed in (replace(true, share_key=own), replace(true, mask_keys=(own,)), replace(true, commitments=(own,))):
        refused("signature", federation.sites[0].deal, with_advert(adverts, 2, changed))


def test_a_sites_own_keys_are_not_exchanged_behind_its_back():
    federation = Federation()
    adverts = federation.exchange_keys()
    refused("keys", federation.sites[0].deal, with_advert(adverts, 0, federation.server._adverts[1]))
    left_out = sent(replace(adverts, adverts={i: a for i, a in adverts.adverts.items() if i != 0}))
    refused("keys", federation.sites[0].deal, left_out)


def test_sybil_outside_the_roster_is_refused():
    federation = Federation()
    adverts = federation.exchange_keys()
    evil = Federation(size=6)
    sybil = evil.sites[5].begin(evil.terms, CONFIG)
    refused("roster", federation.sites[0].deal, with_advert(adverts, 5, sybil))


def test_sybil_roster_of_the_servers_making_is_refused():
    federation = Federation()
    keys = [*federation.cohort.keys, ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()]
    wider = Cohort(consortium="0" * 32, names=(*federation.cohort.names, "site-9"), keys=tuple(keys))
    terms = replace(federation.terms, roster=wider.digest)
    Server(terms, wider)
    refused("roster", federation.sites[0].begin, terms, CONFIG)


def test_sybil_one_sites_keys_under_a_second_name_are_refused():
    federation = Federation()
    adverts = federation.exchange_keys()
    copied = replace(federation.server._adverts[1], site=2)  # colluder 2 signs the keys of 1 as its own
    signature = federation.keys[2].sign(to_sign("advert", federation.server.setup, copied.body_to_sign()))
    refused("keys", federation.sites[0].deal, with_advert(adverts, 2, replace(copied, signature=signature)))


def test_a_key_that_gives_no_secret_is_refused_and_its_sender_named():
    federation = Federation()
    adverts = federation.exchange_keys()
    weak = replace(federation.server._adverts[2], share_key=bytes(32))  # a point of low order
    signature = federation.keys[2].sign(to_sign("advert", federation.server.setup, weak.body_to_sign()))
    error = refused("keys", federation.sites[0].deal, with_advert(adverts, 2, replace(weak, signature=signature)))
    assert error.blamed == (name(2),)


def test_a_site_whose_key_is_not_the_rosters_does_not_start():
    federation = Federation()
    federation.keys[0] = ed25519.Ed25519PrivateKey.generate()
    refused("roster", federation.site, 0)


# Terms and contexts


@pytest.mark.parametrize("change", [{"threshold": 3, "least_survivors": 3}, {"colluders": 0}])
def test_lowered_threshold_is_refused(change):
    federation = Federation(size=5)
    refused("terms", federation.sites[0].begin, replace(federation.terms, **change), CONFIG)


@pytest.mark.parametrize("floors", [Floors(sites=6), Floors(sites=2, survivors=5), Floors(colluders=2)])
def test_the_sites_own_floors_win_over_the_servers_wish(floors):
    federation = Federation(size=5)
    refused("terms", federation.site(0, floors).begin, federation.terms, CONFIG)


def test_threshold_that_differs_between_sites_breaks_every_signature():
    federation = Federation(size=5)
    higher = replace(federation.terms, threshold=5, least_survivors=5)
    adverts = federation.advertise()
    told_otherwise = federation.site(0)
    own = told_otherwise.begin(higher, CONFIG)
    bundle = {**{i: a.to_bytes() for i, a in adverts.items()}, 0: own.to_bytes()}
    message = Adverts(setup=Server(higher, federation.cohort).setup, round=1, adverts=bundle)
    refused("signature", told_otherwise.deal, message)


def test_another_configuration_is_refused():
    federation = Federation()
    refused("terms", federation.sites[0].begin, replace(federation.terms, config=b"x" * 32), CONFIG)


def test_equivocation_two_models_cannot_be_confirmed_and_the_sum_is_noise():
    federation = Federation()
    federation.set_up()
    vectors = federation.inputs(0)
    step = federation.server.open_step(1, MODEL)
    masked = {}
    for i, site in federation.sites.items():
        site.open_step(federation.server.inbox(name(i), step), b"evil" * 8 if i == 0 else MODEL)
        masked[i] = site.mask(vectors[i])
    for i in range(1, 5):
        step.add_masked(name(i), masked[i][0], masked[i][1])
    refused("signature", step.add_masked, name(0), masked[0][0], masked[0][1])
    # A server that takes it all the same gets signatures that no honest site accepts.
    survivors = Survivors(setup=federation.server.setup, round=1, step=0, sites=tuple(range(5)))
    signatures = {i: site.confirm(survivors).signature for i, site in federation.sites.items()}
    for i in (0, 1):
        message = Confirmations(setup=survivors.setup, round=1, step=0, signatures=signatures)
        refused("signature", federation.sites[i].reveal, message)


def test_split_view_of_the_keys_makes_shares_that_do_not_open():
    federation = Federation(size=5)
    adverts = federation.exchange_keys()
    fewer = sent(replace(adverts, adverts={i: a for i, a in adverts.adverts.items() if i != 4}))
    deals = {i: federation.sites[i].deal(adverts if i else fewer) for i in range(4)}
    refused("shares", federation.server.add_deal, name(0), deals[0])
    for i in (1, 2, 3):
        federation.server.add_deal(name(i), deals[i])
    federation.server._deals[0] = deals[0]  # a server that does not care
    step = federation.server.open_step(1, MODEL)
    error = refused("shares", federation.sites[1].open_step, federation.server.inbox(name(1), step), MODEL)
    assert error.blamed == (name(0),)


def test_split_view_of_who_dealt_shares_cannot_be_confirmed():
    federation = Federation(size=5)
    federation.set_up()
    step = federation.server.open_step(1, MODEL)
    vectors = federation.inputs(0)
    for i, site in federation.sites.items():
        inbox = federation.server.inbox(name(i), step)
        if i == 0:  # told that site 4 dealt nothing: then it would add no mask against site 4
            parts = {key: {j: v for j, v in getattr(inbox, key).items() if j != 4} for key in ("boxes", "commitments")}
            inbox = replace(inbox, **parts)
        site.open_step(sent(inbox), MODEL)
        site.mask(vectors[i])
    survivors = Survivors(setup=federation.server.setup, round=1, step=0, sites=(0, 1, 2, 3))
    signatures = {i: federation.sites[i].confirm(survivors).signature for i in range(4)}
    message = Confirmations(setup=survivors.setup, round=1, step=0, signatures=signatures)
    for i in range(4):
        refused("signature", federation.sites[i].reveal, message)


def test_split_view_of_the_survivors_yields_no_shares():
    federation, step, _ = masked_federation(size=5)
    views = {i: (0, 1, 2, 3) if i in (0, 1) else (0, 2, 3, 4) for i in range(5)}
    views[1] = (0, 1, 2, 3)
    survivors = {v: replace(step.survivors(), sites=v) for v in set(views.values())}
    signatures = {}
    for i in (0, 1, 2, 3):
        signatures[i] = federation.sites[i].confirm(survivors[views[i]]).signature
    message = Confirmations(setup=federation.server.setup, round=1, step=0, signatures=signatures)
    for i in (0, 1):
        refused("signature", federation.sites[i].reveal, message)


# Survivors and shares


def test_a_site_in_both_lists_survivor_and_dropped_out_gets_one_kind_of_share():
    federation, step, _ = masked_federation(size=5)
    first = replace(step.survivors(), sites=(0, 1, 2, 3))  # says that 4 dropped out
    second = step.survivors()  # says that it survived
    confirmed = {i: federation.sites[i].confirm(first).signature for i in range(4)}
    for i in range(4):
        refused("stage", federation.sites[i].confirm, second)
    message = Confirmations(setup=federation.server.setup, round=1, step=0, signatures=confirmed)
    reveals = [federation.sites[i].reveal(message) for i in range(4)]
    assert {reveal.shares[4][0] for reveal in reveals} == {KEY}
    assert {reveal.shares[0][0] for reveal in reveals} == {SEED}
    for i in range(4):
        refused("stage", federation.sites[i].reveal, message)


def test_a_survivor_named_twice_is_no_message_at_all():
    setup = Federation().server.setup
    with pytest.raises(MessageError):
        Survivors(setup=setup, round=1, step=0, sites=(0, 1, 1, 2))
    whole = Survivors(setup=setup, round=1, step=0, sites=(0, 1, 2)).to_bytes()
    with pytest.raises(MessageError):
        Survivors.from_bytes(whole[:-2] + whole[-4:-2])


@pytest.mark.parametrize("sites", [(0, 1, 2), (1, 2, 3, 4), (0, 1, 2, 9)])
def test_too_few_survivors_or_without_oneself_or_with_a_stranger_are_not_signed(sites):
    federation, step, _ = masked_federation(size=5)
    with pytest.raises(SecAggError) as caught:
        federation.sites[0].confirm(replace(step.survivors(), sites=sites))
    assert caught.value.code in ("too_few", "survivors")


def test_fewer_survivors_than_m_are_refused_even_above_the_threshold():
    federation, step, _ = masked_federation(size=5, least=5)
    refused("too_few", federation.sites[0].confirm, replace(step.survivors(), sites=(0, 1, 2, 3)))


def test_fewer_confirmations_than_the_threshold_reveal_nothing():
    federation, step, _ = masked_federation(size=5)
    confirmations = federation.confirm(step)
    few = replace(confirmations, signatures={i: confirmations.signatures[i] for i in range(3)})
    refused("too_few", federation.sites[0].reveal, few)


def test_a_confirmation_of_a_site_that_did_not_survive_does_not_count():
    federation = Federation(size=5)
    federation.set_up()
    step = federation.mask(federation.inputs(0), missing={4})
    confirmations = federation.confirm(step)
    stranger = replace(confirmations, signatures={**confirmations.signatures, 4: bytes(64)})
    refused("survivors", federation.sites[0].reveal, stranger)


def test_tampered_share_on_its_way_is_refused():
    federation = Federation(size=5)
    federation.set_up()
    step = federation.server.open_step(1, MODEL)
    inbox = federation.server.inbox(name(0), step)
    for at in (0, 70, 147):
        box = bytearray(inbox.boxes[1])
        box[at] ^= 1
        changed = replace(inbox, boxes={**inbox.boxes, 1: bytes(box)})
        error = refused("shares", federation.sites[0].open_step, changed, MODEL)
        assert error.blamed == (name(1),)
    swapped = replace(inbox, boxes={**inbox.boxes, 1: inbox.boxes[2]})
    refused("shares", federation.sites[0].open_step, swapped, MODEL)
    federation.sites[0].open_step(inbox, MODEL)


def test_other_shares_in_a_later_step_are_refused():
    federation = Federation(size=5, steps=2)
    federation.set_up()
    federation.step(federation.inputs(0))
    step = federation.server.open_step(2, MODEL)
    inbox = federation.server.inbox(name(0), step)
    parts = {key: {j: v for j, v in getattr(inbox, key).items() if j != 4} for key in ("boxes", "commitments")}
    refused("shares", federation.sites[0].open_step, replace(inbox, **parts), MODEL)


def test_a_dealer_whose_share_is_not_what_it_committed_to_is_named_by_the_receiver():
    federation = Federation(size=5)
    federation.exchange_shares(federation.exchange_keys())
    step = federation.server.open_step(1, MODEL)
    inbox = federation.server.inbox(name(0), step)
    commitments = {**inbox.commitments, 3: inbox.commitments[2]}
    error = refused("shares", federation.sites[0].open_step, replace(inbox, commitments=commitments), MODEL)
    assert error.blamed == (name(3),)


@pytest.mark.parametrize("dropped", [set(), {4}])
def test_who_reveals_a_wrong_share_is_named_and_the_others_are_enough(dropped):
    federation = Federation(size=6)
    federation.set_up()
    vectors = federation.inputs(0)
    step = federation.mask(vectors, missing=dropped)
    confirmations = federation.confirm(step)
    for i in confirmations.signatures:
        reveal = federation.sites[i].reveal(confirmations)
        if i == 2:
            other = reveal.shares[4]
            wrong = {**reveal.shares, 4: other[:1] + bytes([other[1] & 1]) + bytes(65)}
            error = refused("shares", step.add_reveal, name(2), sent(replace(reveal, shares=wrong)))
            assert error.blamed == (name(2),)
        else:
            step.add_reveal(name(i), reveal)
    assert (step.total() == plain_sum(vectors, step.survivors().sites)).all()


def test_a_share_of_the_other_kind_is_refused_by_the_server():
    federation, step, _ = masked_federation(size=5)
    confirmations = federation.confirm(step)
    key_share = federation.sites[0]._setup.steps[0].held[1][1]  # a true share, but of the key of a survivor
    reveal = federation.sites[0].reveal(confirmations)
    for share in (key_share, reveal.shares[1][1:]):
        wrong = {**reveal.shares, 1: bytes([KEY]) + share}
        refused("shares", step.add_reveal, name(0), replace(reveal, shares=wrong))


@pytest.mark.parametrize("gone", [set(), {2}])
def test_a_dealer_whose_shares_do_not_fit_its_keys_is_named_and_nothing_wrong_comes_out(gone, monkeypatch):
    """Site 2 deals shares of a made-up secret, with commitments that fit the shares."""
    federation = Federation(size=5)
    adverts = federation.exchange_keys()
    true_split = split
    for i in range(5):
        if i == 2:
            monkeypatch.setattr("privacy.secagg.dealing.split", lambda _, t, points: true_split(b"x" * 32, t, points))
        federation.server.add_deal(name(i), sent(federation.sites[i].deal(adverts)))
        monkeypatch.setattr("privacy.secagg.dealing.split", true_split)
    step = federation.mask(federation.inputs(0), missing=gone)
    confirmations = federation.confirm(step)
    error = refused("shares", federation.reveal, step, confirmations)
    assert error.blamed == (name(2),)


# Replay


def test_replayed_keys_of_an_earlier_set_up_are_refused():
    federation = Federation()
    old = federation.exchange_keys()
    federation.renewed()
    new = federation.exchange_keys()
    mixed = sent(replace(new, adverts={**new.adverts, 2: old.adverts[2]}))
    refused("signature", federation.sites[0].deal, mixed)


def test_keys_of_an_earlier_set_up_with_the_same_terms_are_told_apart_even_by_a_site_without_memory():
    """The site lost its replay state, and the server starts the very same set-up again with others' old keys."""
    federation = Federation(size=5)
    old = federation.exchange_keys()
    federation.sites = {i: federation.site(i) for i in range(5)}
    federation.server = Server(federation.terms, federation.cohort)
    new = federation.exchange_keys()
    victim_view = sent(replace(new, adverts={**old.adverts, 0: new.adverts[0]}))
    victim, others = federation.sites[0].deal(victim_view), federation.sites[1].deal(new)
    federation.server.add_deal(name(1), others)
    refused("signature", federation.server.add_deal, name(0), victim)


def test_reused_round_the_same_set_up_is_begun_once():
    federation = Federation()
    federation.sites[0].begin(federation.terms, CONFIG)
    refused("replay", federation.sites[0].begin, federation.terms, CONFIG)


def test_reused_round_is_refused_after_a_restart(tmp_path):
    federation = Federation()
    with FileReplay(tmp_path / "replay") as replay:
        federation.site(0, replay=replay).begin(federation.terms, CONFIG)
    with FileReplay(tmp_path / "replay") as replay:
        refused("replay", federation.site(0, replay=replay).begin, federation.terms, CONFIG)


def test_reused_step_is_refused():
    federation = Federation(size=5, steps=2)
    federation.set_up()
    vectors = federation.inputs(0)
    step = federation.mask(vectors)
    inbox = federation.server.inbox(name(0), step)
    refused("replay", federation.sites[0].open_step, inbox, MODEL)
    refused("stage", federation.sites[0].mask, vectors[0])
    later = federation.server.open_step(1, MODEL)
    federation.sites[0].open_step(federation.server.inbox(name(0), later), MODEL)
    refused("replay", federation.sites[0].open_step, inbox, MODEL)


def test_two_sums_of_one_round_over_different_sites_are_not_both_revealed():
    """Their difference would be one site's vector."""
    federation = Federation(size=6, steps=3)
    federation.set_up()
    vectors = federation.inputs(0)
    total, survivors = federation.step(vectors)
    assert len(survivors) == 6
    step = federation.mask(vectors, missing={5})
    confirmations = federation.confirm(step)
    refused("replay", federation.reveal, step, confirmations)
    again, _ = federation.step(vectors)  # the very same sum may be asked for again
    assert (again == total).all()


def test_where_noise_protects_each_sum_a_round_may_be_summed_anew():
    federation = Federation(size=6, steps=2, strict=False)
    federation.set_up()
    vectors = federation.inputs(0)
    federation.step(vectors)
    total, survivors = federation.step(vectors, masked={5})
    assert (total == plain_sum(vectors, survivors)).all()


def test_an_earlier_round_is_over():
    federation = Federation(size=5, steps=3)
    federation.set_up()
    vectors = federation.inputs(0)
    federation.step(vectors, round_number=2)
    step = federation.server.open_step(1, MODEL)
    refused("replay", federation.sites[0].open_step, federation.server.inbox(name(0), step), MODEL)


def test_messages_out_of_turn_are_refused_and_leave_the_site_where_it_was():
    federation = Federation(size=5)
    adverts = federation.exchange_keys()
    federation.exchange_shares(adverts)
    site, vectors = federation.sites[0], federation.inputs(0)
    survivors = Survivors(setup=federation.server.setup, round=1, step=0, sites=tuple(range(5)))
    refused("stage", site.confirm, survivors)
    refused("stage", site.mask, vectors[0])
    refused("stage", site.deal, adverts)
    step = federation.mask(vectors)
    refused("stage", site.reveal, Confirmations(setup=survivors.setup, round=1, step=0, signatures={0: bytes(64)}))
    refused("stage", site.confirm, replace(survivors, step=1))
    refused("stage", site.confirm, replace(survivors, setup=b"x" * 32))
    refused("survivors", site.confirm, replace(survivors, round=2))
    assert (federation.reveal(step, federation.confirm(step)) == plain_sum(vectors, range(5))).all()


# The server's own guard against a site


def test_a_site_speaks_only_for_itself_and_once():
    federation = Federation(size=5)
    federation.set_up()
    step = federation.server.open_step(1, MODEL)
    vectors = federation.inputs(0)
    site = federation.sites[0]
    site.open_step(federation.server.inbox(name(0), step), MODEL)
    masked, vector, _ = site.mask(vectors[0])
    refused("stage", step.add_masked, name(1), masked, vector)
    refused("signature", step.add_masked, name(1), replace(masked, site=1), vector)
    refused("vector", step.add_masked, name(0), masked, vector[:-1])
    refused("vector", step.add_masked, name(0), masked, vector.astype(np.uint64))
    step.add_masked(name(0), masked, vector)
    refused("stage", step.add_masked, name(0), masked, vector)


def test_shares_below_the_threshold_say_nothing_of_the_secret():
    """Any secret fits any threshold - 1 shares: here two secrets are completed from the very same shares."""
    shares = split(b"a" * 32, 3, [1, 2, 3])
    two = {1: shares[1], 2: shares[2]}
    assert join(shares) == b"a" * 32
    with pytest.raises(ValueError, match="belong"):
        join(two)


def test_a_refusal_names_no_value_that_came_in():
    federation = Federation()
    with pytest.raises(SecAggError) as caught:
        MaskingSite(
            name="Jane Doe",
            identity=federation.keys[0],
            cohort=federation.cohort,
            floors=Floors(),
            replay=None,  # type: ignore[arg-type]
        )
    assert "Jane" not in str(caught.value)
