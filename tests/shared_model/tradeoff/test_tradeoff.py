"""The trade-off network about a small patient: where it acts, what it learns, how a dose is steered, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shared_model.bundled import TRADEOFF
from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.scoring.scorecard_read import parse_scorecard
from shared_model.tradeoff.learn import lesson
from shared_model.tradeoff.network import TradeoffNetwork
from shared_model.tradeoff.patient import TradeoffPatient, tradeoff_patient
from shared_model.tradeoff.points import COLD, MEAN, POINTS, DvhPoint
from shared_model.tradeoff.prior import ChangePrior
from shared_model.tradeoff.saved import Tradeoff
from shared_model.tradeoff.steer import Steering, best, candidates, plan_noise, steer
from tests.builders.small_study import ellipsoid_case

CARD = """\
schema: rt-scorecard/2
name: sparing
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 40, points: [[60, 0], [72, 40]]}
  - {id: parotid, structure: Parotid_L, metric: Mean, unit: Gy, direction: lower, weight: 60,
     points: [[0, 60], [70, 0]]}
"""


@pytest.fixture(scope="module")
def case() -> Case:
    return ellipsoid_case()


@pytest.fixture(scope="module")
def predicted(case: Case) -> np.ndarray:
    """A dose 3 Gy hotter than the plan in the parotid, and 2 Gy colder in the target."""
    assert case.dose_gy is not None
    dose = case.dose_gy.copy()
    dose[case.structures["Parotid_L"]] += 3.0
    dose[case.structures["PTV_7000"]] -= 2.0
    return dose


@pytest.fixture(scope="module")
def patient(case: Case, predicted: np.ndarray) -> TradeoffPatient:
    return tradeoff_patient(case, predicted, "head_neck")


def independent(gy: float = 2.0) -> ChangePrior:
    return ChangePrior(torch.eye(len(POINTS)) * (gy / 70) ** 2)


@pytest.fixture
def tradeoff() -> Tradeoff:
    """A network as training starts: what is wanted is added in part where it is painted."""
    torch.manual_seed(0)
    network = TradeoffNetwork().eval().requires_grad_(False)
    return Tradeoff(network=network, prior=independent(), body_site="head_neck", shared_sha256="0" * 64)


def test_the_points_of_the_predicted_dose_and_the_plans(patient: TradeoffPatient) -> None:
    apart = dict(zip(patient.points.points, (patient.apart * patient.unit_gy).tolist(), strict=True))
    assert apart[DvhPoint("Parotid_L", MEAN)] == pytest.approx(-3.0, abs=0.05)
    assert apart[DvhPoint("high", COLD)] == pytest.approx(2.0, abs=0.1)


def test_a_change_acts_in_its_structure_and_never_outside_the_body(
    patient: TradeoffPatient, tradeoff: Tradeoff, case: Case
) -> None:
    place = patient.points.points.index(DvhPoint("Parotid_L", MEAN))
    change = torch.zeros(1, len(patient.points.points))
    change[0, place] = -4.0 / patient.unit_gy
    moved = patient.moved(tradeoff.network, patient.see(tradeoff.network), change, torch.ones_like(change))
    gy = patient.in_gy(moved, case.grid.shape)[0].numpy()
    before = patient.in_gy(patient.dose[None], case.grid.shape)[0].numpy()
    parotid = case.structures["Parotid_L"] & case.body
    assert (gy - before)[parotid].mean() == pytest.approx(-0.7 * 4.0, abs=0.05)  # as training starts
    assert np.abs(gy - before)[~parotid].max() < 1e-3
    assert (gy[~case.body] == 0).all()
    assert (gy >= 0).all()


def test_nothing_wanted_changes_nothing_before_training(patient: TradeoffPatient, tradeoff: Tradeoff) -> None:
    nothing = torch.zeros(1, len(patient.points.points))
    moved = patient.moved(tradeoff.network, patient.see(tradeoff.network), nothing, nothing)
    assert torch.equal(moved[0], patient.dose)


def test_a_mirrored_patient_has_the_other_parotid(case: Case, predicted: np.ndarray) -> None:
    channels = patient_channels(case)
    here = TradeoffPatient(channels, predicted[channels.slices])
    there = TradeoffPatient(channels, predicted[channels.slices], mirrored=True)
    left, right = (DvhPoint(name, MEAN) for name in ("Parotid_L", "Parotid_R"))
    assert left in here.points.points
    assert right not in here.points.points
    assert right in there.points.points
    torch.testing.assert_close(
        there.now[there.points.points.index(right)], here.now[here.points.points.index(left)], rtol=1e-3, atol=1e-4
    )


def test_a_few_steps_bring_the_dose_nearer_to_the_plan(patient: TradeoffPatient) -> None:
    torch.manual_seed(0)
    network = TradeoffNetwork()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    found = []
    for step in range(8):
        optimiser.zero_grad()
        loss = lesson(network, patient, torch.Generator().manual_seed(step % 2))
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.8 * found[1]


def test_steering_gains_points_and_the_price_bounds_the_change(
    patient: TradeoffPatient, tradeoff: Tradeoff, case: Case
) -> None:
    card = parse_scorecard(CARD).bind(case)
    cheap, dear = (steer(tradeoff, patient, card, Steering(price=price), case.grid.shape) for price in (0.1, 100.0))
    assert cheap.after > cheap.before + 0.5
    assert cheap.before <= dear.after < cheap.after
    assert dear.unusual < 0.2 < cheap.unusual
    assert float(card.score(cheap.dose_gy[None].double())[0]) == pytest.approx(cheap.after)


def test_asking_for_no_change_changes_nothing(patient: TradeoffPatient) -> None:
    """The bundled network answers no change with one of its own; what is moved is what was asked for."""
    network = Tradeoff.load(TRADEOFF).network
    none = torch.zeros(1, len(patient.now))
    raw = patient.moved(network, patient.see(network), none, torch.ones_like(none))[0]
    assert (raw - patient.dose).abs().max() * patient.unit_gy > 0.05
    torch.testing.assert_close(patient.mover(network)(none)[0], patient.dose, atol=1e-6, rtol=1e-6)


def test_no_change_is_rarer_than_it_may_be(patient: TradeoffPatient, tradeoff: Tradeoff, case: Case) -> None:
    card = parse_scorecard(CARD).bind(case)
    free, bound = (
        steer(tradeoff, patient, card, Steering(price=0.01, most=most), case.grid.shape) for most in (100.0, 0.5)
    )
    assert bound.unusual == pytest.approx(0.5, rel=1e-3)
    assert free.unusual > 1.0
    assert bound.before < bound.after < free.after


def test_a_dose_that_would_lose_points_is_left_as_it_is(
    patient: TradeoffPatient, tradeoff: Tradeoff, case: Case
) -> None:
    """A rate so large that the climb ends far off: no points, but never fewer than before."""
    card = parse_scorecard(CARD).bind(case)
    wild = steer(tradeoff, patient, card, Steering(price=1000.0, steps=1, rate=300.0), case.grid.shape)
    assert wild.after >= wild.before


def test_candidates_come_in_pairs_and_do_not_depend_on_their_number(
    patient: TradeoffPatient, tradeoff: Tradeoff, case: Case
) -> None:
    shape = case.grid.shape
    few, many = (candidates(tradeoff, patient, count, plan_noise(3), shape) for count in (3, 6))
    torch.testing.assert_close(few, many[:3], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(few, candidates(tradeoff, patient, 3, plan_noise(4), shape))
    # Before training the network is linear: pairs lie opposite about the prediction, where no dose is cut at 0.
    start = patient.in_gy(patient.dose[None], shape)[0]
    inside = start > 20
    torch.testing.assert_close((many[0] + many[1])[inside] / 2, start[inside], rtol=1e-3, atol=1e-2)
    wide = candidates(tradeoff.with_spread(2.0), patient, 2, plan_noise(3), shape)
    torch.testing.assert_close((wide[0] - start)[inside], 2 * (many[0] - start)[inside], rtol=1e-2, atol=1e-2)


def test_the_best_is_chosen_among_them_and_the_prediction(
    patient: TradeoffPatient, tradeoff: Tradeoff, case: Case
) -> None:
    card = parse_scorecard(CARD).bind(case)
    found = best(tradeoff, patient, card, 5, 0, case.grid.shape)
    assert len(found.scores) == 5
    start = patient.in_gy(patient.dose[None], case.grid.shape)
    assert found.scores[0] == pytest.approx(float(card.score(start.double())[0]))
    assert float(card.score(found.dose_gy[None].double())[0]) == pytest.approx(max(found.scores))
    assert torch.equal(found.doses_gy[0], start[0])


def test_the_prior_is_the_covariance_of_what_patients_differ_by() -> None:
    random = np.random.default_rng(0)
    places = [0, 1, 6]
    root = np.array([[3.0, 0, 0], [1.5, 1, 0], [0, -1, 2]]) / 100
    rows = [(places, torch.tensor(root @ random.normal(size=3) + 0.05)) for _ in range(4000)]
    prior = ChangePrior.of(rows)
    found = prior.root(places).double()
    expected = torch.tensor(root @ root.T)
    shrunk = 0.9 * expected + 0.1 * torch.diag(expected.diag())
    torch.testing.assert_close(found @ found.T, shrunk, rtol=0.1, atol=5e-5)
    assert prior.deviation()[0] == pytest.approx(0.03, rel=0.1)


def test_points_that_few_patients_share_are_independent() -> None:
    rows = [([0, 1], torch.tensor([value, value])) for value in (0.1, -0.1, 0.2)]
    assert float(ChangePrior.of(rows).covariance[0, 1]) == 0.0
    with pytest.raises(InputError, match="no patient"):
        ChangePrior.of([])


def test_a_patient_without_a_target_is_refused(case: Case, predicted: np.ndarray) -> None:
    bare = replace(case, structures={"SpinalCord": case.structures["SpinalCord"]}, prescriptions_gy={})
    with pytest.raises(InputError, match="no target"):
        tradeoff_patient(bare, predicted, "head_neck")


def test_a_patient_of_a_few_voxels_has_nothing_to_trade(case: Case, predicted: np.ndarray) -> None:
    speck = np.zeros_like(case.body)
    speck[12, 13, 14] = True
    tiny = replace(case, body=speck, structures={"PTV_7000": speck}, dose_gy=None, ct_hu=None)
    with pytest.raises(InputError, match="nothing to trade"):
        tradeoff_patient(tiny, predicted, "head_neck")


def test_the_file_comes_back_in_sixteen_bits_and_a_wrong_one_is_named(tradeoff: Tradeoff, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tradeoff.with_spread(1.25).save(path)
    again = Tradeoff.load(path)
    assert again.sha256 == Tradeoff.load(path).sha256 != again.with_spread(1.0).sha256
    assert (again.spread, again.body_site, again.shared_sha256) == (1.25, "head_neck", "0" * 64)
    assert torch.equal(again.prior.covariance, tradeoff.prior.covariance)
    for name, value in again.network.state_dict().items():
        torch.testing.assert_close(value, tradeoff.network.state_dict()[name], rtol=1e-3, atol=1e-4)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    save_file(load_file(path), tmp_path / "other.safetensors", {"format": "another"})
    for name, reason in (("cut", "cannot be read"), ("other", "not a trade-off network"), ("none", "cannot be read")):
        with pytest.raises(InputError, match=reason):
            Tradeoff.load(tmp_path / f"{name}.safetensors")


def test_the_bundled_one_is_for_head_and_neck() -> None:
    bundled = Tradeoff.load(TRADEOFF)
    assert bundled.body_site == "head_neck"
    assert 0.5 < bundled.spread < 3.0
    assert TRADEOFF.stat().st_size < 5e6
