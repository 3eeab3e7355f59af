"""The second stage: it changes nothing untrained, knows where it fits, and stays inside the body."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.network.fine import FineNet
from shared_model.network.seeding import seeded
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid, back_project
from shared_model.prediction.fine_stage import (
    FINE_CHANNELS,
    SEEN,
    FineStage,
    bundled_fine_stage,
    fine_inputs,
    lifted,
    load_fine_stage,
)
from shared_model.prediction.regrid import coarsen
from shared_model.scoring.dosimetry import score_case, summarise
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.reports.scoring import upsample

FULL = os.environ.get("FEDKT3D_OPENKBP_FULL")
RANGES = ((1.5, 12.0), (1.5, 12.0))


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (30, 33, 31))


def stage_of(seed: int, ranges: tuple[tuple[float, float], tuple[float, float]] = RANGES) -> FineStage:
    """A stage whose last layer is not 0, so that it changes the dose."""
    with seeded(seed):
        network = FineNet(FINE_CHANNELS)
        torch.nn.init.normal_(network.head.weight)
    return FineStage(network, ranges)


def coarse_dose(case: Case) -> tuple[torch.Tensor, Case]:
    coarse = coarsen(case, (2, 2, 2))
    assert coarse.dose_gy is not None
    return torch.from_numpy(coarse.dose_gy), coarse


def test_untrained_it_is_back_projection(case: Case) -> None:
    dose, coarse = coarse_dose(case)
    stage = FineStage(FineNet(FINE_CHANNELS), RANGES)
    back = back_project(dose, torch.from_numpy(case.body), case.grid, coarse.grid)
    assert torch.equal(lifted(dose, coarse.grid, case, stage), back)
    assert torch.equal(lifted(dose, coarse.grid, case, None), back)


def test_a_dose_on_the_cases_own_grid_stays(case: Case) -> None:
    dose = torch.rand(case.grid.shape)
    assert lifted(dose, case.grid, case, stage_of(0)) is dose


def test_it_changes_the_body_alone_and_never_below_zero(case: Case) -> None:
    dose, coarse = coarse_dose(case)
    back = lifted(dose, coarse.grid, case, None)
    sharp = lifted(dose, coarse.grid, case, stage_of(0))
    assert (sharp - back).abs().max() > 0.1
    assert float(sharp[torch.from_numpy(~case.body)].abs().max()) == 0.0
    assert float(sharp.min()) == 0.0


def test_a_part_of_a_patient_gets_the_answer_of_the_whole() -> None:
    """No norm looks at the whole of a window: what is far from its edges is the same."""
    network = stage_of(1).network
    x = torch.rand(1, FINE_CHANNELS, 28, 30, 32)
    with torch.no_grad():
        whole, part = network(x), network(x[:, :, :, :, 2:])
    assert torch.allclose(whole[..., 2 + 16 : -1], part[..., 16:-1], atol=1e-5)


def test_where_it_fits(case: Case) -> None:
    _, coarse = coarse_dose(case)
    z, _, x = case.grid.spacing_mm
    assert stage_of(0).fits(coarse.grid, case)
    thrice = coarsen(case, (3, 3, 3)).grid
    assert not stage_of(0).fits(thrice, case)
    assert not stage_of(0, ((z * 1.2, z * 2), (1.5, 12.0))).fits(coarse.grid, case)
    assert not stage_of(0, ((1.5, 12.0), (x / 3, x / 1.2))).fits(coarse.grid, case)
    bare = replace(case, prescriptions_gy={}, structures={}, dose_gy=None)
    assert not stage_of(0).fits(coarse.grid, bare)


def test_what_the_network_sees(case: Case) -> None:
    patient = patient_channels(case)
    dose = np.random.default_rng(0).random(patient.stack.shape[:3]).astype(np.float32) * 70
    seen = fine_inputs(patient, dose)
    assert seen.shape[-1] == FINE_CHANNELS == len(SEEN) + 1
    assert np.allclose(seen[..., 0], dose / patient.unit_gy, atol=2e-3)
    z, y, x = patient.slices
    assert np.array_equal(seen[..., 1 + SEEN.index("body")] > 0.5, case.body[z, y, x])
    assert patient.layout.index("dose") not in [patient.layout.index(name) for name in SEEN]


def test_a_folder_that_is_no_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected weights\.safetensors and card\.json"):
        load_fine_stage(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"spacing_mm": {"slices": [2, 3], "pixels": [3, 5]}}))
    with pytest.raises(InputError, match=r"expected weights\.safetensors and card\.json"):
        load_fine_stage(tmp_path)


@pytest.mark.skipif(FULL is None, reason="FEDKT3D_OPENKBP_FULL is not set")
def test_the_bundled_stage_mends_a_dose_that_was_averaged() -> None:
    """Validation patients' own dose at half resolution, brought back: the stage halves what that costs at least."""
    stage = bundled_fine_stage()
    assert stage is not None
    before, after = [], []
    for case_id in ("pt_201", "pt_205", "pt_210"):
        half, full = (
            load_case(SiteConfig(site="a", data=kind, root=Path(str(FULL)), train=(), validation=(case_id,)), case_id)
            for kind in ("openkbp", "openkbp128")
        )
        assert half.dose_gy is not None
        dose = torch.from_numpy(half.dose_gy)
        before.append(score_case(full, upsample(dose, half, full)))
        after.append(score_case(full, upsample(dose, half, full, stage)))
    assert summarise(after)["dvh_score_gy"] < summarise(before)["dvh_score_gy"]


def test_a_grid_shifted_by_a_voxel_is_not_taken_for_its_own(case: Case) -> None:
    dose, coarse = coarse_dose(case)
    origin = (coarse.grid.origin_mm[0] + case.grid.spacing_mm[0], *coarse.grid.origin_mm[1:])
    moved = lifted(dose, Grid(coarse.grid.shape, coarse.grid.spacing_mm, origin), case, None)
    assert not torch.equal(moved, lifted(dose, coarse.grid, case, None))
