"""The federation plan: strict when read, and what a site that pinned it answers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from privacy.agreement.federation_plan import FederationPlan, check_request, plan_hash
from privacy.dp.accountant import epsilon
from privacy.dp.terms import PrivacyTerms
from privacy.trust import signed
from privacy.trust.peers import peer_digits
from privacy.wire.messages import EvaluateTask, Request, TrainTask
from shared_model.core.errors import InputError, PolicyError
from tests.builders.consortium import Consortium

CONSORTIUM = Consortium()
PLAN = CONSORTIUM.plan()


def train(**changes: int) -> Request:
    task = TrainTask(**{"round": 1, "rounds": 4, "local_steps": 5, "batch_size": 2, "lr": 1e-3, "seed": 0, **changes})  # type: ignore[arg-type]
    return request("train", task)


def request(kind: str, task: TrainTask | EvaluateTask | None = None, size: int = 3, **changes: str) -> Request:
    values = {"run_id": "0" * 32, "spec_json": PLAN.model, "manifest_hash": PLAN.manifest, **changes}
    vector = None if task is None else np.zeros(size, np.float32)
    return Request(kind=kind, task=task, vector=vector, **values)


def test_a_plan_reads_back_from_its_signed_file() -> None:
    content = PLAN.to_signed(CONSORTIUM.signer_key)
    assert FederationPlan.from_signed(content, CONSORTIUM.signer_public, CONSORTIUM.id) == PLAN
    assert plan_hash(content) == plan_hash(content.replace(b"\n", b"\r\n")) != plan_hash(content[:-2])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 2}, "schema"),
        ({"mode": "shared"}, "mode"),
        ({"consortium": "0" * 32}, "consortium"),
        ({"privacy": {"z": 1.0}}, "privacy"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"metrics": "loss"}, "metrics"),
        ({"metrics": ["a b"]}, "metrics"),
        ({"software": {"torch": 2}}, "software"),
        ({"model": "[]"}, "model"),
        ({"stopping": "a\nb"}, "stopping"),
        ({"sites": ["a"]}, "sites"),
        ({"sites": {"a b": "a" * 64}}, "sites"),
        ({"sites": {"a": "b"}}, "sites"),
        ({"sites": {"a": "b" * 64}}, "certificates"),
        ({"certificates": {"a": "x"}}, "certificates"),
        ({"version": 0}, "version"),
        ({"expires": "tomorrow"}, "expires"),
        ({"answers": 0}, "answers"),
        ({"more": 1}, "field"),
    ],
)
def test_a_signed_plan_is_checked_all_the_same(change: dict[str, object], named: str) -> None:
    document = signed.read_unverified("plan", PLAN.to_signed(CONSORTIUM.signer_key)) | change
    content = signed.sign("plan", document, CONSORTIUM.signer_key)
    with pytest.raises(InputError, match=named):
        FederationPlan.from_signed(content, CONSORTIUM.signer_public, CONSORTIUM.id)


@pytest.mark.parametrize(
    "asked",
    [
        request("describe"),
        train(),
        train(rounds=3, local_steps=1, batch_size=1),
        request("evaluate", EvaluateTask(round=4, sampler_steps=3)),
    ],
)
def test_what_fits_the_plan_passes(asked: Request) -> None:
    check_request(PLAN, asked)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (train(rounds=5), "rounds at most 4"),
        (train(local_steps=6), "local_steps at most 5"),
        (train(batch_size=3), "batch_size at most 2"),
        (request("evaluate", EvaluateTask(round=1, sampler_steps=4)), "sampler_steps at most 3"),
        (request("evaluate", EvaluateTask(round=1, candidates=2, sampler_steps=1)), "candidates at most 1"),
        (request("evaluate", EvaluateTask(round=5, sampler_steps=1)), "rounds at most 4"),
        (request("train", train().task, size=4), "3 numbers"),
        (request("describe", manifest_hash="c" * 64), "manifest"),
        (request("describe", spec_json=PLAN.model.replace("full", "lora")), "model is not the one"),
        (request("describe", spec_json="{"), "specification"),
        (request("describe", spec_json="[]"), "specification"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_plans_limit(asked: Request, named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        check_request(PLAN, asked)


def test_mode_none_is_said_aloud() -> None:
    words = "\n".join(PLAN.in_words())
    assert "privacy: NONE" in words
    for part in ("first", "loss", "2 sites", "4 rounds of 5 steps", "torch 2.13.0+cpu"):
        assert part in words
    assert "none" in "\n".join(replace(PLAN, metrics=()).in_words())


def test_a_u_shaped_network_is_told_without_a_grid() -> None:
    model = json.dumps({"network": "pyramid", "prior": "none", "adapter": "full"})
    assert "adapter full, grid of each patient" in "\n".join(replace(PLAN, model=model).in_words())


TERMS = PrivacyTerms(
    mode="shared", z=4.25, q=1.0, steps=50, clip=0.1, delta=1e-5, cohort=60, sites=4, survivors=4, colluders=1
)  # fmt: skip
SITES = {name: name * 64 for name in "abcd"}
PAPERS = {name: f"certificate of {name}" for name in SITES}
PRIVATE = replace(
    PLAN,
    certificates=PAPERS,
    mode="shared",
    privacy={k: v for k, v in TERMS.to_plain().items() if k != "mode"},
    metrics=(),
    sites=SITES,
)


def test_a_private_plan_carries_its_terms_and_says_both_epsilons() -> None:
    content = PRIVATE.to_signed(CONSORTIUM.signer_key)
    read = FederationPlan.from_signed(content, CONSORTIUM.signer_public, CONSORTIUM.id)
    assert read == PRIVATE
    assert read.terms == TERMS
    assert read.cohort.names == ("a", "b", "c", "d")
    assert read.cohort.keys[1] == bytes.fromhex("b" * 64)
    words = " ".join(read.in_words())
    assert "at most 1 colluding sites" in words
    assert f"{epsilon({(4.25, 1.0): 50}, 1e-5):.2f} towards the coordinator" in words
    assert "if all others collude" in words
    assert f"digits of b: {peer_digits(PLAN.consortium, 'b', 'b' * 64)}" in words
    assert "with each site directly" in words
    assert "digits of" not in " ".join(PLAN.in_words())


def test_a_private_plan_is_held_by_its_terms() -> None:
    check_request(PRIVATE, train(privacy=TERMS.to_json(), local_steps=1))  # type: ignore[arg-type]
    for other in ("", replace(TERMS, z=4.0).to_json(), replace(TERMS, mode="site").to_json()):
        with pytest.raises(PolicyError, match="privacy terms are not those"):
            check_request(PRIVATE, train(privacy=other, local_steps=1))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="privacy terms are not those"):
        check_request(PLAN, train(privacy=TERMS.to_json(), local_steps=1))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="answers no"):
        check_request(PRIVATE, request("evaluate", EvaluateTask(round=1, sampler_steps=1)))


def test_a_private_plan_names_as_many_sites_as_its_terms_count_on() -> None:
    for sites in ({}, {**SITES, "e": "e" * 64}):
        papers = dict.fromkeys(sites, "a certificate")
        changes = {"sites": sites, "certificates": papers}
        document = signed.read_unverified("plan", PRIVATE.to_signed(CONSORTIUM.signer_key)) | changes
        content = signed.sign("plan", document, CONSORTIUM.signer_key)
        with pytest.raises(InputError, match="terms are for 4 sites"):
            FederationPlan.from_signed(content, CONSORTIUM.signer_public, CONSORTIUM.id)


@pytest.mark.parametrize("privacy", [{}, {"z": 1.0}, {**PRIVATE.privacy, "z": 0.0}, [], None])
def test_a_private_plan_without_sound_terms_is_refused(privacy: object) -> None:
    document = signed.read_unverified("plan", PRIVATE.to_signed(CONSORTIUM.signer_key)) | {"privacy": privacy}
    with pytest.raises(InputError, match=r"privacy|terms"):
        FederationPlan.from_signed(
            signed.sign("plan", document, CONSORTIUM.signer_key), CONSORTIUM.signer_public, CONSORTIUM.id
        )
