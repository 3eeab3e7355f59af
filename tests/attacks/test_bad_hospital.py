"""One bad hospital against the others: the round goes on, and whoever is at fault is named by their own signature."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.secagg.audit import check_opening
from privacy.secagg.context import to_sign
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import SEED, Complaint
from privacy.secagg.site import Opening, input_commitment
from tests.builders.secagg_rounds import MODEL, Federation, name, plain_sum, sent


def test_keys_of_low_order_cost_their_sender_the_round_and_nobody_else():
    """Otherwise every honest site refuses to deal, and the run never gets beyond its keys."""
    for field, value in (("share_key", bytes(32)), ("mask_keys", (b"\x01" + bytes(31),))):
        federation = Federation(size=5)
        adverts = federation.advertise()
        bad = replace(adverts[4], **{field: value})
        signature = federation.keys[4].sign(to_sign("advert", federation.server.setup, bad.body_to_sign()))
        for i in range(4):
            federation.server.add_advert(name(i), adverts[i])
        with pytest.raises(SecAggError) as caught:
            federation.server.add_advert(name(4), replace(bad, signature=signature))
        assert (caught.value.code, caught.value.blamed) == ("keys", (name(4),))
        federation.exchange_shares(sent(federation.server.adverts()))
        vectors = federation.inputs(0)
        total, sites = federation.step(vectors)
        assert sites == [0, 1, 2, 3]
        assert np.array_equal(total, plain_sum(vectors, sites))


def test_copied_keys_cost_the_copier_the_round_and_nobody_else():
    federation = Federation(size=5)
    adverts = federation.advertise()
    copied = replace(adverts[4], mask_keys=adverts[0].mask_keys)
    signature = federation.keys[4].sign(to_sign("advert", federation.server.setup, copied.body_to_sign()))
    for i in range(4):
        federation.server.add_advert(name(i), adverts[i])
    with pytest.raises(SecAggError) as caught:
        federation.server.add_advert(name(4), replace(copied, signature=signature))
    assert (caught.value.code, caught.value.blamed) == ("keys", (name(4),))
    federation.exchange_shares(sent(federation.server.adverts()))
    vectors = federation.inputs(0)
    total, _ = federation.step(vectors)
    assert np.array_equal(total, plain_sum(vectors, [0, 1, 2, 3]))


def garbage(federation: Federation, dealer: int):
    """The dealer's shares in boxes that nobody can open, under the dealer's true signature."""
    adverts = federation.exchange_keys()
    for i in range(federation.size):
        deal = sent(federation.sites[i].deal(adverts))
        if i == dealer:
            boxes = {other: bytes(len(box)) for other, box in deal.boxes.items()}
            bad = replace(deal, boxes=boxes)
            context = federation.sites[i]._setup.deal_hash
            signature = federation.keys[i].sign(to_sign("deal", context, bad.body_to_sign()))
            deal = replace(bad, signature=signature)
        federation.server.add_deal(name(i), deal)
    return federation.server.open_step(1, MODEL)


def test_a_dealer_of_garbage_is_named_by_signed_refusals():
    federation = Federation(size=5)
    step = garbage(federation, 4)
    found: dict[str, Complaint] = {}
    for i in range(4):
        with pytest.raises(SecAggError, match="the shares of site-004 cannot be opened") as caught:
            federation.sites[i].open_step(sent(federation.server.inbox(name(i), step)), MODEL)
        assert caught.value.complaint is not None
        found[name(i)] = sent(caught.value.complaint)
    for site, complaint in found.items():
        federation.server.add_complaint(site, complaint)
    assert federation.server.proven_bad() == (name(4),)


def test_up_to_t_liars_blame_nobody_and_a_complaint_of_another_set_up_counts_for_nothing():
    federation = Federation(size=5)
    federation.set_up()
    context = federation.sites[0]._setup.deal_hash
    for accused in (1, 2):
        unsigned = Complaint(site=0, dealers=(accused,), signature=bytes(64))
        signature = federation.keys[0].sign(to_sign("complaint", context, unsigned.body_to_sign()))
        federation.server.add_complaint(name(0), replace(unsigned, signature=signature))
    assert federation.server.proven_bad() == ()
    other = Complaint(site=3, dealers=(1,), signature=federation.keys[3].sign(b"another set-up"))
    with pytest.raises(SecAggError, match="not signed by site-003"):
        federation.server.add_complaint(name(3), other)
    with pytest.raises(SecAggError):
        federation.server.add_complaint(name(2), other)  # in another site's name
    assert federation.server.proven_bad() == ()


def test_a_masked_vector_that_its_sender_did_not_sign_is_refused():
    """M4: else a coordinator, or the wire, could change it, and the site would be blamed for the wrong sum."""
    federation = Federation(size=5)
    federation.set_up()
    step = federation.server.open_step(1, MODEL)
    federation.sites[0].open_step(federation.server.inbox(name(0), step), MODEL)
    message, masked, _ = federation.sites[0].mask(federation.inputs(0)[0])
    changed = masked.copy()
    changed[3] += 1
    with pytest.raises(SecAggError, match="not the one that it signed"):
        step.add_masked(name(0), message, changed)
    step.add_masked(name(0), message, masked)


def opened(federation: Federation, lie: str = "") -> tuple[object, dict[int, tuple[Opening, np.ndarray]], dict]:
    """One sum whose sites keep what opens it; site 2 puts in another vector than it commits to if it is to lie."""
    federation.set_up()
    step = federation.server.open_step(1, MODEL)
    kept, messages, vectors = {}, {}, federation.inputs(0)
    for i, site in federation.sites.items():
        site.open_step(federation.server.inbox(name(i), step), MODEL)
        message, masked, opening = site.mask(vectors[i])
        shown = vectors[i]
        if i == 2 and lie:
            shown = vectors[i] + np.uint32(lie == "vector")
            if lie == "vector":
                commitment = input_commitment(opening.context, i, opening.salt, shown)
                unsigned = replace(message, commitment=commitment)  # of a vector that it never sent
                signed = to_sign("input", opening.context, unsigned.body_to_sign())
                message = replace(unsigned, signature=federation.keys[i].sign(signed))
            if lie == "seed":
                opening = replace(opening, seed=bytes(32))
            if lie == "key":
                opening = replace(opening, mask_key=b"\x07" * 32)
            if lie == "salt":
                opening = replace(opening, salt=bytes(32))
        step.add_masked(name(i), message, masked)
        kept[i], messages[i] = (opening, shown), message
    return step, kept, messages


@pytest.mark.parametrize("lie", ["vector", "seed", "key", "salt", ""])
def test_openings_name_the_site_whose_input_is_not_what_it_committed_to(lie: str):
    """Every other site's opening fits, so the blame falls on the liar alone."""
    federation = Federation(size=5)
    step, kept, messages = opened(federation, lie)
    found = {i: check_opening(step.dealt, step.context, messages[i], *kept[i]) for i in range(5)}
    assert {i: bool(why) for i, why in found.items()} == {i: bool(lie) and i == 2 for i in range(5)}, found


def test_a_wrong_share_is_still_its_revealers_fault():
    federation = Federation(size=5)
    federation.set_up()
    step = federation.mask(federation.inputs(0))
    confirmations = federation.confirm(step)
    reveal = federation.sites[0].reveal(confirmations)
    bad = replace(reveal, shares={**reveal.shares, 1: bytes([SEED]) + bytes(len(reveal.shares[1]) - 1)})
    with pytest.raises(SecAggError, match="site-000 revealed a share"):
        step.add_reveal(name(0), bad)
