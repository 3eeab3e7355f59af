"""Dosimetry against OpenKBP's known answers, against numpy, and against what can be worked out by hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.scoring import dosimetry

ROIS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
TARGETS = {"PTV_5600": 56.0, "PTV_6300": 63.0, "PTV_7000": 70.0}
COLUMNS = [f"{r}/{m}" for r in ROIS for m in ("D0.1cc", "mean")]
COLUMNS += [f"{t}/{m}" for t in TARGETS for m in ("D99", "D95", "D1")]

OPENKBP = os.environ.get("FEDKT3D_OPENKBP")
needs_openkbp = pytest.mark.skipif(not OPENKBP, reason="FEDKT3D_OPENKBP does not name the folder of OpenKBP's patients")
# Half a unit of the last stated digit, plus what single precision loses: 4e-6 Gy in one dose of 70 Gy, less in a mean.
DVH_DIGITS_GY = 0.5e-4 + 4e-6
SCORE_DIGITS_GY = 0.5e-5 + 1e-6
PATIENTS = [f"pt_{n}" for n in (6, 28, 92, 99, 150, 189, 210, 215, 233, 254, 297, 306)]


def openkbp_case(patient: str, size: int) -> Case:
    """Read without the client's reader, so that a fault there cannot hide one here. The metrics know no direction."""
    assert OPENKBP is not None
    with np.load(Path(OPENKBP) / ("half64" if size == 64 else "full128") / f"{patient}.npz") as file:
        shape = (size,) * 3
        masks = np.unpackbits(file["masks"], axis=1).reshape(10, *shape).astype(bool)
        body = file["pdm_cover"] > 0 if size == 64 else np.unpackbits(file["pdm"]).reshape(shape).astype(bool)
        spacing = tuple(float(v) for v in file["vox_mm"])
        dose_gy = (file["dose_cgy"] / 100.0).astype(np.float32)
    structures = {name: mask for name, mask in zip((*ROIS, *TARGETS), masks, strict=True) if mask.any()}
    return Case(
        case_id=patient,
        grid=Grid(shape, spacing),
        body=body,
        structures=structures,
        prescriptions_gy={name: gy for name, gy in TARGETS.items() if name in structures},
        dose_gy=dose_gy,
    )


def known_answers(patient: str) -> dict[str, Any]:
    assert OPENKBP is not None
    answers = json.loads((Path(OPENKBP) / "reference" / "known_answers.json").read_text())
    found: dict[str, Any] = answers["patients"][patient]
    return found


@needs_openkbp
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("patient", PATIENTS)
def test_openkbp_known_answers(patient: str, size: int) -> None:
    case, known = openkbp_case(patient, size), known_answers(patient)
    assert case.dose_gy is not None
    dose = torch.from_numpy(case.dose_gy).double()
    metrics = dosimetry.dvh_metrics(dose[None], case.structures, case.grid.voxel_cc)
    for column, expected in zip(COLUMNS, known[f"dvh_{size}"], strict=True):
        if expected is None:
            assert column not in metrics
        else:
            assert metrics[column].item() == pytest.approx(expected, abs=DVH_DIGITS_GY), column

    score = dosimetry.score_case(case, 0.95 * dose)
    assert score.dose_score_gy == pytest.approx(known[f"dose_error_{size}_of_0p95"], abs=SCORE_DIGITS_GY)
    if size == 128:
        assert np.mean(list(score.dvh_errors.values())) == pytest.approx(
            known["dvh_error_128_of_0p95"], abs=SCORE_DIGITS_GY
        )
        ref5, gdp, _ = known["mae5_128_of_0p95"]
        assert score.mae_ref5_gy == pytest.approx(ref5, abs=SCORE_DIGITS_GY)
        assert score.mae_gdp_gy == pytest.approx(gdp, abs=SCORE_DIGITS_GY)


doses = st.lists(st.floats(0, 80, width=32), min_size=1, max_size=60)


@given(doses, st.floats(0, 100))
@settings(deadline=None)
def test_dose_at_volume_is_numpys_percentile(values: list[float], volume_percent: float) -> None:
    dose = np.array([values, values[::-1]])
    found = dosimetry.dose_at_volume(torch.from_numpy(dose), volume_percent)
    np.testing.assert_allclose(found, np.percentile(dose, 100 - volume_percent, axis=1), atol=1e-9)


@given(doses, st.floats(0.001, 0.4))
@settings(deadline=None)
def test_dose_at_01cc_is_openkbps(values: list[float], voxel_cc: float) -> None:
    voxels = np.float32(np.maximum(1, np.round(0.1 / voxel_cc)))
    expected = np.percentile(np.array(values), max(np.float32(0.0), 100 - voxels / len(values) * 100))
    found = dosimetry.dose_at_01cc(torch.tensor([values], dtype=torch.float64), voxel_cc)
    assert found.item() == pytest.approx(float(expected), abs=1e-9)


@given(doses, st.lists(st.floats(-1, 81), min_size=1, max_size=10))
@settings(deadline=None)
def test_dvh_curve_counts_voxels(values: list[float], levels: list[float]) -> None:
    dose = torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)
    found = dosimetry.dvh_curve(dose, torch.ones(1, 1, len(values), dtype=torch.bool), torch.tensor(levels).double())
    levels64 = torch.tensor(levels).double().numpy()
    expected = [(np.array(values) >= level).mean() for level in levels64]
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def sphere_case(radius_mm: float = 30.0, gradient_gy_mm: float = 0.5) -> Case:
    """A spherical target of 70 Gy at the centre of a dose that rises along x, 40 Gy at the centre."""
    grid = Grid((81, 81, 81), (1.0, 1.0, 1.0), (-40.0, -40.0, -40.0))
    z, y, x = np.meshgrid(*(grid.centres_mm(axis) for axis in range(3)), indexing="ij")
    sphere = z**2 + y**2 + x**2 <= radius_mm**2
    return Case(
        case_id="sphere",
        grid=grid,
        body=np.ones(grid.shape, dtype=bool),
        structures={"PTV_7000": sphere, "Brainstem": sphere},
        prescriptions_gy={"PTV_7000": 70.0},
        dose_gy=(40.0 + gradient_gy_mm * x).astype(np.float32),
    )


def cap_height_mm(fraction: float, radius_mm: float) -> float:
    """Height of the spherical cap that holds this fraction of the sphere, by bisection of h^2 (3r - h) / (4 r^3)."""
    low, high = 0.0, 2 * radius_mm
    for _ in range(60):
        middle = (low + high) / 2
        too_small = middle**2 * (3 * radius_mm - middle) / (4 * radius_mm**3) < fraction
        low, high = (middle, high) if too_small else (low, middle)
    return low


@pytest.mark.parametrize("percent", [99.0, 95.0, 50.0, 1.0])
def test_sphere_in_a_linear_gradient(percent: float) -> None:
    case = sphere_case()
    dose = torch.from_numpy(case.dose_gy)[None]
    in_sphere = dosimetry.structure_dose(dose, torch.from_numpy(case.structures["PTV_7000"]))
    # The hottest x % is the cap on the +x side; D95 is 29.06 Gy.
    expected = 40.0 + 0.5 * (30.0 - cap_height_mm(percent / 100, 30.0))
    found = dosimetry.dose_at_volume(in_sphere, percent).item()
    assert found == pytest.approx(expected, abs=0.25)  # half a voxel in this gradient
    curve = dosimetry.dvh_curve(dose, torch.from_numpy(case.structures["PTV_7000"]), torch.tensor([expected]))
    assert curve.item() == pytest.approx(percent / 100, abs=0.02)


def test_uniform_doses_as_a_batch_of_candidates() -> None:
    case = sphere_case(gradient_gy_mm=0.0)  # reference: 40 Gy everywhere
    candidates = torch.stack([torch.full(case.grid.shape, gy) for gy in (40.0, 43.0, 38.5)])
    scores = dosimetry.score_candidates(case, candidates)
    for score, off_gy in zip(scores, (0.0, 3.0, 1.5), strict=True):
        keys = {f"PTV_7000/{m}" for m in ("D99", "D95", "D1")} | {"Brainstem/D0.1cc", "Brainstem/mean"}
        assert set(score.dvh_errors) == keys
        for value in (score.dose_score_gy, score.mae_ref5_gy, score.mae_gdp_gy, *score.dvh_errors.values()):
            assert value == pytest.approx(off_gy, abs=1e-12)
        assert dosimetry.score_case(case, candidates[scores.index(score)]) == score


def small_volumes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    reference = torch.tensor([0.0, 5.0, 10.0, 20.0, 3.0, 0.0]).reshape(1, 1, 6)
    dose = torch.tensor([8.0, 1.0, 12.0, 20.0, 4.0, 7.0]).reshape(1, 1, 1, 6)
    body = torch.tensor([True, True, True, True, True, False]).reshape(1, 1, 6)
    return reference, dose, body


def test_the_three_voxel_errors_differ_as_they_are_defined() -> None:
    reference, dose, body = small_volumes()
    # |difference| = 8 4 2 0 1 | 7 outside the body
    assert dosimetry.dose_score_gy(reference, dose, body).item() == pytest.approx(22 / 5)
    assert dosimetry.mae_ref5_gy(reference, dose, body).item() == pytest.approx((4 + 2 + 0) / 3)  # 5 Gy itself counts
    assert dosimetry.mae_gdp_gy(reference, dose, body).item() == pytest.approx((8 + 2 + 0) / 2)  # false dose, strict >


def test_scaling_to_prescription_reaches_it_and_says_when_it_cannot() -> None:
    case = sphere_case()
    target = torch.from_numpy(case.structures["PTV_7000"])
    dose = torch.stack([torch.from_numpy(case.dose_gy), 0.3 * torch.from_numpy(case.dose_gy)]).double()
    scaled = dosimetry.scale_to_prescription(dose, target, 70.0)
    np.testing.assert_allclose(np.percentile(scaled[:, target].numpy(), 3, axis=1), 70.0, rtol=1e-12)
    torch.testing.assert_close(scaled[0], scaled[1])
    with pytest.raises(InputError, match="D97 of the target is 0 Gy"):
        dosimetry.scale_to_prescription(0 * dose, target, 70.0)


def test_gradients_reach_the_dose() -> None:
    case = sphere_case()
    dose = torch.from_numpy(case.dose_gy).double()[None].requires_grad_(True)
    metrics = dosimetry.dvh_metrics(dose, case.structures, case.grid.voxel_cc)
    for value in metrics.values():
        (gradient,) = torch.autograd.grad(value.sum(), dose, retain_graph=True)
        assert gradient.sum().item() == pytest.approx(1.0)  # +1 Gy everywhere raises every metric by 1 Gy


def test_dvh_score_is_the_mean_over_cells_not_over_patients() -> None:
    scores = [
        dosimetry.CaseScore(dose_score_gy=1.0, dvh_errors={"a": 1.0}, mae_ref5_gy=2.0, mae_gdp_gy=4.0),
        dosimetry.CaseScore(dose_score_gy=3.0, dvh_errors={"a": 4.0, "b": 4.0}, mae_ref5_gy=6.0, mae_gdp_gy=5.0),
    ]
    expected = {"dose_score_gy": 2.0, "dvh_score_gy": 3.0, "mae_ref5_gy": 4.0, "mae_gdp_gy": 4.5, "patients": 2.0}
    assert dosimetry.summarise(scores) == expected


def test_empty_structures_count_as_absent() -> None:
    mask: NDArray[np.bool_] = np.zeros((2, 2, 2), dtype=bool)
    assert dosimetry.dvh_metrics(torch.ones(1, 2, 2, 2), {"Larynx": mask}, 0.1) == {}


def test_bad_input_is_named() -> None:
    case = sphere_case()
    good = torch.from_numpy(case.dose_gy)
    with pytest.raises(InputError, match="case sphere: no reference dose"):
        dosimetry.score_case(replace(case, dose_gy=None), good)
    with pytest.raises(InputError, match="nowhere exceeds 5 Gy"):
        dosimetry.score_case(replace(case, dose_gy=case.dose_gy * 0.01), good)
    with pytest.raises(InputError, match=r"shape \(1, 81, 81, 80\)"):
        dosimetry.score_case(case, good[..., 1:])
    with pytest.raises(InputError, match="not finite"):
        dosimetry.score_case(case, good * float("nan"))
    with pytest.raises(InputError, match="no patient was scored"):
        dosimetry.summarise([])
    with pytest.raises(InputError, match="no voxel"):
        dosimetry.dose_at_volume(torch.ones(2, 0), 95.0)
    with pytest.raises(InputError, match="no voxel"):
        dosimetry.dvh_curve(torch.ones(1, 2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.bool), torch.ones(1))
    with pytest.raises(InputError, match="expected 0 to 100"):
        dosimetry.dose_at_volume(torch.ones(2, 3), 101.0)
