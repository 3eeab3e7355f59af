"""Candidates that a hospital's alignment learns from: plan-like about the policy's own dose, or the sampler's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from client.adapters.align import AlignJob, align
from client.adapters.candidates import Candidates, drawing
from client.adapters.guide import distance, guide
from client.adapters.patients import ScoredPatient, load_patients
from client.adapters.scard_nft import Alignment
from client.adapters.settings import AlignSettings
from client.site.config import SiteConfig
from shared_model.adapter.manifest import load_adapter, unpack
from shared_model.adapter.private import PrivatePolicy
from shared_model.adapter.shared import adapted_model
from shared_model.bundled import DEFAULT_ADAPTER, TRADEOFF
from shared_model.core.errors import InputError
from shared_model.forms.interface import Form, form_of
from shared_model.forms.volume_sampling import clean_of
from shared_model.network.seeding import noise_generator
from shared_model.scoring.scorecard_read import parse_scorecard
from shared_model.tradeoff.saved import Tradeoff
from tests.builders.phantom_patients import CARD, SPEC, trained_vector, write_site

SETTINGS = AlignSettings(candidates=6, guided=0.0, lambda_diffusion=0.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    return write_site(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def tradeoff() -> Tradeoff:
    return Tradeoff.load(TRADEOFF)


def of_spec(site: SiteConfig, spec: Any, vector: Any) -> tuple[Form[Any], Any, ScoredPatient]:
    model = adapted_model(spec)
    unpack(model, vector)
    (one,) = load_patients(site, site.train[:1], spec, model.eval(), parse_scorecard(CARD))
    return form_of(spec), model.network, one


@pytest.fixture(scope="module")
def volumes(site: SiteConfig) -> tuple[Form[Any], Any, ScoredPatient]:
    """The bundled U-shaped network, and a patient."""
    spec, vector, _ = load_adapter(DEFAULT_ADAPTER)
    return of_spec(site, spec, vector)


def drawn(found: tuple[Form[Any], Any, ScoredPatient], tradeoff: Tradeoff | None, seed: int = 0) -> Candidates:
    form, network, patient = found
    with torch.no_grad():
        denoiser = form.denoiser(network, patient.encoded)
        return drawing(form.mean_in_one_step, tradeoff)(denoiser, patient, SETTINGS, noise_generator(seed, "test"))


def test_plan_like_candidates_move_with_the_policy(
    volumes: tuple[Form[Any], Any, ScoredPatient], tradeoff: Tradeoff
) -> None:
    """They lie about what it predicts, and one that predicts a tenth more dose draws a tenth more."""
    form, network, patient = volumes
    model = adapted_model(form.spec)
    model.network = network
    predicted = patient.sample(model, 1, 1, seed=5)[0]
    found = drawn(volumes, tradeoff).doses_gy
    body = torch.from_numpy(patient.case.body)
    assert found.shape == (6, *patient.case.grid.shape)
    assert found[:, ~body].abs().max() == 0
    apart = (found - predicted)[:, body].abs().mean(1)
    assert (apart > 0.05).all()
    assert (found.mean(0) - predicted)[body].abs().mean() < 0.5 * apart.mean()
    hotter = -clean_of(1.1 * predicted[None], patient.encoded)
    more = drawing(True, tradeoff)(lambda x, t: hotter, patient, SETTINGS, noise_generator(0, "test")).doses_gy
    grown = (more.mean(0) - found.mean(0))[body].mean() / predicted[body].mean()
    assert grown == pytest.approx(0.1, abs=0.03)


def test_what_the_network_learns_from_is_what_the_card_scored(
    volumes: tuple[Form[Any], Any, ScoredPatient], tradeoff: Tradeoff
) -> None:
    form, _, patient = volumes
    found = drawn(volumes, tradeoff)
    torch.testing.assert_close(patient.doses(form.decode(found.x0)), found.doses_gy, atol=1e-3, rtol=1e-4)


def test_they_are_compared_where_the_policy_makes_its_dose(
    volumes: tuple[Form[Any], Any, ScoredPatient], tradeoff: Tradeoff
) -> None:
    """At pure noise, once for all candidates; the velocity there leads to each candidate."""
    form, network, patient = volumes
    found = drawn(volumes, tradeoff)
    (state,), (old,) = found.states, found.v_old
    assert len(state.x_t) == len(old) == 1
    assert state.t_b.tolist() == [1.0]
    torch.testing.assert_close(state.v, -found.x0)
    with torch.no_grad():
        torch.testing.assert_close(old, form.denoiser(network, patient.encoded)(state.x_t, state.t_b))


def test_they_follow_the_generator_alone(volumes: tuple[Form[Any], Any, ScoredPatient], tradeoff: Tradeoff) -> None:
    first = drawn(volumes, tradeoff).doses_gy
    assert torch.equal(first, drawn(volumes, tradeoff).doses_gy)
    assert not torch.allclose(first, drawn(volumes, tradeoff, seed=1).doses_gy)


def test_without_a_trade_off_network_or_a_mean_in_one_step_the_sampler_draws(
    volumes: tuple[Form[Any], Any, ScoredPatient], site: SiteConfig, tradeoff: Tradeoff
) -> None:
    latents = of_spec(site, SPEC, trained_vector())
    for found in (drawn(volumes, None), drawn(latents, tradeoff), drawn(latents, None)):
        assert len(found.states) == SETTINGS.candidate_steps
        assert len(found.x0) == 6


def made(site: SiteConfig, out: Path, card: str, settings: AlignSettings, tradeoff: Tradeoff | None) -> AlignJob:
    spec, vector, _ = load_adapter(DEFAULT_ADAPTER)
    return AlignJob(
        card=parse_scorecard(card), spec=spec, vector=vector, site=site, out=out, settings=settings, tradeoff=tradeoff
    )


def quiet(_what: str, _done: int, _total: int, _numbers: dict[str, float]) -> None:
    pass


def test_an_alignment_with_another_trade_off_network_is_another_one(
    site: SiteConfig, tmp_path: Path, tradeoff: Tradeoff
) -> None:
    few = replace(site, train=site.train[:1], validation=site.validation[:1])
    align(made(few, tmp_path, CARD, replace(SETTINGS, epochs=0), tradeoff), quiet)
    with pytest.raises(InputError, match="holds an alignment with other settings"):
        align(made(few, tmp_path, CARD, replace(SETTINGS, epochs=0), tradeoff.with_spread(1.0)), quiet)


LOW_DOSE = """\
schema: rt-scorecard/2
name: low dose alone
version: "1"
metrics:
  - {id: body, structure: Body, metric: Mean, unit: Gy, direction: lower, weight: 100, points: [[0, 100], [30, 0]]}
"""


def test_an_anchor_or_the_shared_policy_keeps_plan_like_candidates_from_being_hacked(
    site: SiteConfig, tmp_path: Path, tradeoff: Tradeoff
) -> None:
    """A card that pays for low dose alone: training gives dose away for points unless something holds it back."""
    few = replace(site, train=site.train[:2], validation=site.validation[:1])
    free = replace(SETTINGS, anchor=0.0, mae_drift=1e5, smooth=0.0, lr=1e-2)
    hacked, held, near = (
        align(made(few, tmp_path / name, LOW_DOSE, settings, tradeoff), quiet)
        for name, settings in (
            ("free", free),
            ("held", replace(free, anchor=50.0, mae_drift=0.01)),
            ("near", replace(free, kl=100.0)),
        )
    )
    before = hacked["before"]
    assert hacked["after"]["score"] > before["score"] + 1.0
    assert hacked["after"]["mae_ref5_gy"] > 1.01 * before["mae_ref5_gy"]
    assert near["after"]["score"] - before["score"] < 0.5 * (hacked["after"]["score"] - before["score"])
    assert held["after"]["mae_ref5_gy"] <= 1.01 * before["mae_ref5_gy"]


def test_the_guide_is_the_shared_dose_steered_to_the_card(
    volumes: tuple[Form[Any], Any, ScoredPatient], tradeoff: Tradeoff
) -> None:
    form, network, patient = volumes
    shared = form.denoiser(network, patient.encoded)
    wanted = guide(tradeoff, shared, patient)
    assert torch.equal(wanted, guide(tradeoff, shared, patient))
    model = adapted_model(form.spec)
    model.network = network
    predicted = patient.sample(model, 1, 1, seed=5)
    steered = patient.doses(form.decode(wanted))
    assert float(patient.card.score(steered.double())) > float(patient.card.score(predicted.double())) + 1.0
    assert float(distance(wanted, clean_of(predicted, patient.encoded))) > 0


@pytest.mark.parametrize("times", [1.0, 7.0])
def test_an_error_a_few_times_as_far_away_counts_so_many_times(times: float) -> None:
    made = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(distance(times * made, 0.0 * made)) == pytest.approx(times * float(distance(made, 0.0 * made)))


def test_training_draws_the_policy_to_the_guide(site: SiteConfig, tradeoff: Tradeoff) -> None:
    """The card pays for low dose alone: with a guide the policy ends near what plans allow, else far away."""
    spec, vector, _ = load_adapter(DEFAULT_ADAPTER)

    def way(weight: float, steps: int) -> float:
        settings = replace(SETTINGS, candidates=2, guided=weight, anchor=0.0, old_most=0.0)
        policy = PrivatePolicy(spec, vector, settings.shape, settings.seed)
        (patient,) = load_patients(site, site.train[:1], spec, policy.model, parse_scorecard(LOW_DOSE))
        alignment = Alignment(policy, [patient], [patient], settings, tradeoff)
        wanted = guide(tradeoff, form_of(spec).denoiser(policy.use(None).network, patient.encoded), patient)
        start = float(distance(clean_of(alignment.predict(patient)[None], patient.encoded), wanted))
        for _ in range(steps):
            alignment.state.epoch += 1
            alignment._epoch(lambda: None)
        return float(distance(clean_of(alignment.predict(patient)[None], patient.encoded), wanted)) / start

    assert way(100.0, 8) < 0.7
    assert way(0.0, 4) > 2.0
