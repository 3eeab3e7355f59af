"""Scorecards on patients: what is read, what is worth how many points, and what is refused with its line."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.data.openkbp import read_openkbp
from shared_model.bundled import SCORECARDS
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.scoring import dosimetry
from shared_model.scoring.scorecard import Scorecard
from shared_model.scoring.scorecard_read import parse_scorecard, read_scorecard

OWN = SCORECARDS
OPENKBP = os.environ.get("FEDKT3D_OPENKBP")
needs_openkbp = pytest.mark.skipif(not OPENKBP, reason="FEDKT3D_OPENKBP names no OpenKBP data")

CARD = """\
schema: rt-scorecard/2
name: small
version: "1.0"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 10, points: [[60, 0], [70, 10]],
     constraint: {at_least: 66}}
  - {id: larynx, structure: Larynx, metric: Mean, unit: Gy, direction: lower, weight: 30, points: [[20, 30], [40, 0]]}
"""


def patient(dose_gy: float = 65.0) -> Case:
    """Target and larynx side by side in a body of 2 mm voxels, with a dose that rises along x."""
    grid = Grid((12, 12, 24), (2.0, 2.0, 2.0))
    body = np.ones(grid.shape, dtype=bool)
    target, larynx = np.zeros_like(body), np.zeros_like(body)
    target[3:9, 3:9, 12:20], larynx[3:9, 3:9, 4:8] = True, True
    x = np.arange(24, dtype=np.float32)
    dose = np.broadcast_to(dose_gy + 0.5 * (x - 15.5), grid.shape).clip(0).astype(np.float32)
    return Case(
        case_id="phantom",
        grid=grid,
        body=body,
        structures={"PTV_7000": target, "Larynx": larynx},
        prescriptions_gy={"PTV_7000": 70.0},
        dose_gy=np.ascontiguousarray(dose),
    )


def card(**changes: str) -> Scorecard:
    text = CARD
    for old, new in changes.items():
        text = text.replace(old, new)
    return parse_scorecard(text)


def one(metric: str, unit: str, structure: str = "PTV_High", top: str = "1") -> Scorecard:
    return parse_scorecard(
        f"schema: rt-scorecard/2\nname: one\nversion: '1'\nmetrics:\n  - {{id: m, structure: {structure},"
        f" metric: {metric}, unit: '{unit}', direction: higher, weight: 1, points: [[0, 0], [{top}, 1]]}}\n"
    )


def value(metric: str, unit: str, case: Case, structure: str = "PTV_High") -> float:
    dose = torch.from_numpy(case.dose_gy).double()[None]
    return float(one(metric, unit, structure).bind(case).values(dose)[0, 0])


def test_points_score_and_violation_of_a_uniform_dose() -> None:
    bound = card().bind(patient())
    doses = torch.full((3, 12, 12, 24), 0.0, dtype=torch.float64)
    for row, gy in enumerate((65.0, 70.0, 30.0)):
        doses[row] = gy
    values = bound.values(doses)
    torch.testing.assert_close(values, torch.tensor([[65.0, 65], [70, 70], [30, 30]]).double())
    torch.testing.assert_close(bound.points(values), torch.tensor([[5.0, 0], [10, 0], [0, 15]]).double())
    torch.testing.assert_close(bound.score(doses), torch.tensor([12.5, 25.0, 37.5]).double())
    torch.testing.assert_close(bound.violations(values), torch.tensor([[0.1, 0], [0, 0], [3.6, 0]]).double())


def test_metrics_by_hand() -> None:
    case = patient()
    # Target columns 12 to 19: 63.25, 63.75, ... 66.75 Gy; larynx columns 4 to 7: 59.25 ... 60.75 Gy.
    assert value("Mean", "Gy", case) == pytest.approx(65.0)
    assert value("Max", "Gy", case) == pytest.approx(66.75)
    assert value("Min", "Gy", case) == pytest.approx(63.25)
    assert value("Mean", "%Rx", case) == pytest.approx(100 * 65 / 70)
    assert value("V65Gy", "%", case) == pytest.approx(50.0)
    assert value("V65Gy", "cc", case) == pytest.approx(0.5 * 6 * 6 * 8 * 0.008)
    assert value("CV65Gy", "%", case) == pytest.approx(50.0)
    assert value("V95%", "%", case) == pytest.approx(12.5)  # 66.5 Gy: the last column
    assert value("Mean", "Gy", case, "Larynx") == pytest.approx(60.0)
    assert value("Mean", "Gy", case, "Body") == pytest.approx(float(case.dose_gy.mean()), abs=1e-4)
    # Of the 12 x 12 voxels of a column, columns 12 to 23 (63.25 Gy on) are in the 90 % isodose of 63 Gy.
    target, inside = 6 * 6 * 8, 6 * 6 * 8
    assert value("CI90%", "ratio", case) == pytest.approx(inside**2 / (target * 12 * 12 * 12))
    assert value("R90%", "ratio", case) == pytest.approx(12 * 12 * 12 / target)


def test_a_ring_lies_around_its_target_and_inside_the_body() -> None:
    case = patient()
    ring = one("V1Gy", "cc", "{ring: PTV_High, from_mm: 0, to_mm: 2}", "10").bind(case)
    # One voxel on each face of a 6 x 6 x 8 box; edges and corners are further than 2 mm.
    faces = 2 * (6 * 6 + 2 * 6 * 8)
    assert ring.values(torch.from_numpy(case.dose_gy)[None])[0, 0].item() == pytest.approx(faces * 0.008, rel=1e-5)


def test_partial_voxels_count_in_part() -> None:
    case = patient()
    share = np.zeros(case.grid.shape)
    share[3:9, 3:9, 12:20] = 1.0
    share[3:9, 3:9, 20] = 0.5
    dose = torch.from_numpy(case.dose_gy).double()[None]
    bound = one("Mean", "Gy").bind(case, {"PTV_7000": share})
    assert bound.values(dose)[0, 0].item() == pytest.approx((8 * 65.0 + 0.5 * 67.25) / 8.5)


def test_absent_structures_drop_out_and_the_total_follows() -> None:
    case = patient()
    without = replace(case, structures={"PTV_7000": case.structures["PTV_7000"]})
    dose = torch.full((1, 12, 12, 24), 65.0)
    assert card().bind(without).score(dose).item() == pytest.approx(50.0)
    nothing = replace(case, structures={"Brainstem": case.structures["Larynx"]}, prescriptions_gy={})
    with pytest.raises(InputError, match="none of the structures of scorecard small"):
        card().bind(nothing)


def test_several_structures_are_reduced() -> None:
    case = patient()
    dose = torch.from_numpy(case.dose_gy).double()[None]
    found = {}
    for reduce in ("min", "max", "mean", "union"):
        text = CARD.replace("structure: Larynx,", f"structure: [Larynx, PTV_7000], reduce: {reduce},")
        found[reduce] = float(parse_scorecard(text).bind(case).values(dose)[0, 1])
    assert found == pytest.approx({"min": 60.0, "max": 65.0, "mean": 62.5, "union": (60 * 4 + 65 * 8) / 12})


@given(st.lists(st.floats(0, 80), min_size=1, max_size=20))
def test_the_map_is_numpys_interpolation(values: list[float]) -> None:
    bound = card().bind(patient())
    found = bound.points(torch.tensor([[v, v] for v in values], dtype=torch.float64))
    np.testing.assert_allclose(found[:, 0], np.interp(values, [60, 70], [0, 10]), atol=1e-9)
    np.testing.assert_allclose(found[:, 1], np.interp(values, [20, 40], [30, 0]), atol=1e-9)


def test_gradients_of_the_score_are_those_of_finite_differences() -> None:
    case = patient()
    small = parse_scorecard(
        CARD + "  - {id: v, structure: Larynx, metric: V58Gy, unit: '%', direction: lower, weight: 5,"
        " points: [[10, 5], [95, 0]]}\n"
    ).bind(case)
    torch.manual_seed(1)
    dose = torch.from_numpy(case.dose_gy).double()[None] + 2 * torch.randn(1, 12, 12, 24, dtype=torch.float64)
    dose[..., 4:8] -= 28.0  # larynx about 32 Gy, inside its map
    dose[:, 3:5, 3:9, 4:8] += 26.0
    dose.requires_grad_(True)
    score = small.score(dose, soft_gy=1.0)
    (gradient,) = torch.autograd.grad(score.sum(), dose)
    assert gradient.abs().max() > 0
    direction = torch.randn_like(dose)
    step = 1e-5
    with torch.no_grad():
        plus, minus = (small.score(dose + s * step * direction, soft_gy=1.0) for s in (1.0, -1.0))
    assert ((plus - minus) / (2 * step)).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_candidates_score_as_they_do_alone() -> None:
    bound = card().bind(patient())
    torch.manual_seed(0)
    doses = 50 + 20 * torch.rand(5, 12, 12, 24)
    torch.testing.assert_close(bound.score(doses), torch.cat([bound.score(dose[None]) for dose in doses]))


@pytest.mark.parametrize("name", sorted(path.stem for path in OWN.glob("*.yaml")))
def test_own_cards_are_read_and_every_value_has_a_source(name: str) -> None:
    found = read_scorecard(OWN / f"{name}.yaml")
    assert found.name == name
    assert all(len(c.source) > 5 for c in found.criteria)


@needs_openkbp
@pytest.mark.parametrize("name", ["coverage_first", "european_strict", "quantec_sparing"])
def test_institutional_cards_score_reference_plans_as_measured_elsewhere(name: str) -> None:
    """Version 1 of the format, read as it is; values of one patient against numpy on the masks."""
    assert OPENKBP is not None
    found = read_scorecard(Path(OPENKBP) / "scorecards" / f"{name}.yaml")
    case = read_openkbp(Path(OPENKBP) / "half64" / "pt_201.npz", "pt_201")
    dose = torch.from_numpy(case.dose_gy).double()[None]
    bound = found.bind(case)
    assert 0 < bound.score(dose).item() < 100
    values = dict(zip([c.id for c in bound.criteria], bound.values(dose)[0].tolist(), strict=True))
    in_target = case.dose_gy[case.structures["PTV_7000"]].astype(np.float64)
    assert values["ptv70_d95"] == pytest.approx(np.percentile(in_target, 5), abs=1e-4)
    metrics = dosimetry.dvh_metrics(dose, case.structures, case.grid.voxel_cc)
    if name == "quantec_sparing":
        assert values["parotid_r_mean"] == pytest.approx(metrics["Parotid_R/mean"].item(), abs=1e-5)
