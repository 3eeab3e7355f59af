"""A lung plan of the GDP-HMM challenge is read, scored by the lung card, checked and trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.data.encoded import encoded
from client.data.load import read_file
from client.names.rules import NameRules
from client.prediction.predict import Predictor, Sampled
from client.site.config import GDP
from shared_model.bundled import SCORECARDS
from shared_model.core.errors import InputError
from shared_model.forms.interface import Lesson, form_of
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.scoring.scorecard_read import read_scorecard
from tests.builders.gdp_plans import write_plan
from tests.builders.small_case import small_case

SPEC = ModelSpec(network="pyramid", prior="none", adapter="head", body_site="thorax")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A plan with the organs' names of the challenge's lung plans."""
    neck = small_case()
    organs = {name: np.zeros(neck.grid.shape, dtype=bool) for name in ("left", "right", "heart", "vessels")}
    organs["left"][3:9, 5:12, 13:17] = organs["right"][3:9, 5:12, 3:6] = organs["heart"][4:7, 10:13, 8:12] = True
    organs["vessels"][7:9, 10:13, 9:11] = True
    targets = replace(neck, structures={name: neck.structures[name] for name in neck.targets})
    changes = {
        "Total Lung-GTV": (organs["left"] | organs["right"]).astype(np.uint8),
        "Heart": organs["heart"].astype(np.uint8),
        "GreatVessels": organs["vessels"].astype(np.uint8),
        "SpinalCord": neck.structures["SpinalCord"].astype(np.uint8),
        "PTV_Ring.3-2": organs["vessels"].astype(np.uint8),
        "BrainStem_03": None,
    }
    path = write_plan(tmp_path_factory.mktemp("gdp"), targets, **changes)
    return read_file(GDP, path, NameRules(), listed=True).case


def test_its_organs_are_read_and_scored_by_the_lung_card(plan: Case) -> None:
    assert set(plan.structures) - set(plan.targets) == {"Lungs-GTV", "Heart", "GreatVes", "SpinalCord"}
    assert plan.dose_gy is not None
    scored = read_scorecard(SCORECARDS / "lung.yaml").bind(plan)
    found = scored.values(torch.from_numpy(plan.dose_gy)[None])[0].tolist()
    values = dict(zip([criterion.id for criterion in scored.criteria], found, strict=True))
    heart = plan.dose_gy[plan.structures["Heart"]].mean()
    assert values["heart_mean"] == pytest.approx(float(heart), rel=1e-4)
    lungs = 100 * float((plan.dose_gy[plan.structures["Lungs-GTV"]] >= 20).mean())
    assert values["lungs_v20"] == pytest.approx(lungs, abs=1.0)


def test_a_model_of_the_thorax_sees_them_and_learns(plan: Case, tmp_path: Path) -> None:
    patient = encoded(plan, SPEC, None)
    kept = encoded(plan, SPEC, tmp_path)
    assert patient.stack.tobytes() == kept.stack.tobytes()
    neck = encoded(plan, replace(SPEC, body_site="head_neck"), tmp_path)
    assert neck.stack.tobytes() != patient.stack.tobytes()
    seen = patient.stack[..., patient.layout.index("is_Parotid_L")] > 0
    assert seen.sum() == (plan.structures["Lungs-GTV"][:, :, 10:] & plan.body[:, :, 10:]).sum()
    form = form_of(SPEC)
    network = form.network()
    (loss,) = form.losses(network, [patient], Lesson(stage="dose"), torch.Generator().manual_seed(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_bundled_model_refuses_it_by_name(plan: Case) -> None:
    with pytest.raises(
        InputError, match=r"site of the body: thorax \(.*Heart.*\); the training patients' was head_neck"
    ):
        Predictor().predict(plan, Sampled())
