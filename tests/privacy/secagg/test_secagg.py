"""Secure aggregation: the sum is exact in every ring, whoever drops out at whatever stage, or the step ends cleanly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg.context import Cohort, SumTerms, least_threshold
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import Masked
from privacy.secagg.site import input_commitment
from privacy.trust.membership import AdmissionRequest
from tests.builders.consortium import Consortium
from tests.builders.consortium import Site as Hospital
from tests.builders.secagg_rounds import CONFIG, MODEL, Federation, name, plain_sum, sent

RING_BITS = (16, 32, 64)
STAGES = ("keys", "shares", "mask", "confirm", "reveal")


@settings(max_examples=60)
@given(
    size=st.integers(3, 7),
    bits=st.sampled_from(RING_BITS),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_sum_is_exact_whoever_drops_out(size, bits, seed, data):
    federation = Federation(size=size, bits=bits, length=data.draw(st.sampled_from([1, 7, 257])))
    least = federation.terms.threshold
    here, gone = list(range(size)), {}
    for stage in STAGES:
        gone[stage] = data.draw(st.sets(st.sampled_from(here), max_size=len(here) - least), label=stage)
        here = [i for i in here if i not in gone[stage]]
    vectors = federation.inputs(seed)
    federation.set_up(gone["keys"], gone["shares"])
    total, survivors = federation.step(vectors, masked=gone["mask"], confirmed=gone["confirm"], revealed=gone["reveal"])
    assert survivors == [i for i in range(size) if not any(i in gone[s] for s in ("keys", "shares", "mask"))]
    assert total.dtype == vectors[0].dtype
    assert (total == plain_sum(vectors, survivors)).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), stage=st.sampled_from(STAGES), data=st.data())
def test_too_many_drop_outs_end_the_round_cleanly_at_any_stage(seed, stage, data):
    federation = Federation(size=5)
    gone = data.draw(st.sets(st.integers(0, 4), min_size=2, max_size=5))
    vectors = federation.inputs(seed)
    at = {each: gone if each == stage else () for each in STAGES}

    def whole() -> None:
        federation.set_up(at["keys"], at["shares"])
        federation.step(vectors, masked=at["mask"], confirmed=at["confirm"], revealed=at["reveal"])

    with pytest.raises(SecAggError) as caught:
        whole()
    assert caught.value.code == "too_few"


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), data=st.data())
def test_a_set_up_serves_many_steps_and_a_site_may_miss_some(seed, data):
    federation = Federation(size=5, steps=4)
    federation.set_up()
    for k in range(4):
        vectors = federation.inputs(seed + k)
        away = data.draw(st.sets(st.integers(0, 4), max_size=1))
        total, survivors = federation.step(vectors, masked=away, round_number=1 + k)
        assert (total == plain_sum(vectors, survivors)).all()
        assert set(survivors) == set(range(5)) - away
    assert federation.server.steps_left == 0
    with pytest.raises(SecAggError, match="no step left"):
        federation.server.open_step(5, MODEL)


def test_a_step_that_failed_leaves_the_next_one_whole():
    federation = Federation(size=5, steps=2)
    federation.set_up()
    first = federation.inputs(0)
    step = federation.mask(first, missing={0, 1})
    with pytest.raises(SecAggError, match="least 4"):
        step.survivors()
    total, survivors = federation.step(first)
    assert survivors == [0, 1, 2, 3, 4]
    assert (total == plain_sum(first, survivors)).all()


def test_a_masked_vector_looks_uniform_and_says_nothing_of_its_input():
    federation = Federation(size=3, bits=32, length=200_000)
    federation.set_up()
    step = federation.server.open_step(1, MODEL)
    federation.sites[0].open_step(federation.server.inbox(name(0), step), MODEL)
    _, masked, _ = federation.sites[0].mask(np.zeros(200_000, np.uint32))
    bits = np.unpackbits(masked.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / len(bits) ** 0.5
    assert len(np.unique(masked)) > 199_000


def test_masks_of_two_steps_and_of_two_models_have_nothing_in_common():
    federation = Federation(size=3, steps=2, length=1000)
    federation.set_up()
    zeros = {i: np.zeros(1000, np.uint32) for i in range(3)}
    seen = []
    for _ in range(2):
        step = federation.server.open_step(1, MODEL)
        federation.sites[0].open_step(federation.server.inbox(name(0), step), MODEL)
        seen.append(federation.sites[0].mask(zeros[0])[1])
    assert (seen[0] == seen[1]).mean() < 0.01


def test_the_vector_that_is_masked_stays_as_it_is_and_can_be_audited():
    federation = Federation(size=3)
    federation.set_up()
    vectors = federation.inputs(1)
    kept = vectors[0].copy()
    step = federation.server.open_step(1, MODEL)
    federation.sites[0].open_step(federation.server.inbox(name(0), step), MODEL)
    masked, _, opening = federation.sites[0].mask(vectors[0])
    assert (vectors[0] == kept).all()
    assert input_commitment(opening.context, 0, opening.salt, kept) == masked.commitment
    assert opening.context == step.context
    kept[3] += 1
    assert input_commitment(opening.context, 0, opening.salt, kept) != masked.commitment


def test_the_coordinator_keeps_each_survivors_signed_commitment():
    federation = Federation(size=3)
    federation.set_up()
    step = federation.mask(federation.inputs(0))
    assert list(step.inputs) == [name(i) for i in range(3)]
    assert all(isinstance(m, Masked) for m in step.inputs.values())


def test_secrets_are_gone_when_a_step_was_revealed():
    federation = Federation(size=3, steps=2)
    federation.set_up()
    setup = federation.sites[0]._setup
    federation.step(federation.inputs(0))
    used, unused = setup.steps
    assert (bytes(used.seed), used.mask_key, used.held) == (bytes(32), None, {})
    assert bytes(unused.seed) != bytes(32)
    federation.sites[0].end()
    assert (bytes(unused.seed), unused.mask_key, unused.held) == (bytes(32), None, {})


def test_the_last_step_ends_the_set_up_at_the_site():
    federation = Federation(size=3)
    federation.set_up()
    federation.step(federation.inputs(0))
    assert federation.sites[0]._setup is None


def test_a_hundred_sites_finish_with_one_gone():
    federation = Federation(size=100, bits=16, length=64)
    federation.set_up()
    vectors = federation.inputs(3)
    total, survivors = federation.step(vectors, masked={17})
    assert len(survivors) == 99
    assert (total == plain_sum(vectors, survivors)).all()


@pytest.mark.parametrize(("sites", "colluders", "least"), [(3, 1, 3), (5, 1, 4), (10, 1, 6), (10, 2, 7), (100, 3, 52)])
def test_least_threshold(sites, colluders, least):
    assert least_threshold(sites, colluders) == least
    assert 2 * least > sites + colluders >= 2 * (least - 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 3},
        {"threshold": 6},
        {"least_survivors": 3},
        {"least_survivors": 6},
        {"colluders": 0},
        {"colluders": 3},
        {"ring_bits": 8},
        {"length": 0},
        {"steps": 0},
        {"steps": 65},
    ],
)
def test_terms_without_security_are_refused_by_both_sides(changes):
    federation = Federation(size=5)
    with pytest.raises(SecAggError) as caught:
        federation.renewed(**changes)
    assert caught.value.code == "terms"
    with pytest.raises(SecAggError):
        federation.sites[0].begin(federation.terms, CONFIG)


def test_terms_read_back():
    terms = Federation().terms
    assert sent(terms) == terms
    assert isinstance(terms, SumTerms)


def test_a_cohort_is_taken_from_the_roster_that_the_consortium_signed():
    consortium = Consortium()
    hospitals = {site: Hospital() for site in ("b", "a", "c")}
    for site, hospital in hospitals.items():
        consortium.admission(AdmissionRequest.read(hospital.request(consortium.invitation(site))))
    roster = consortium.roster.revoke("c")
    cohort = Cohort.of(roster)
    assert cohort.names == ("a", "b")
    assert cohort.keys[0] == hospitals["a"].public.public_bytes_raw()
    assert cohort.digest != Cohort.of(roster.revoke("b")).digest
    assert cohort.digest == Cohort.of(roster.renew("a", "f" * 64)).digest
    assert Cohort.of(roster, ["b"]).names == ("b",)
    with pytest.raises(SecAggError):
        Cohort.of(roster, ["a", "c"])
