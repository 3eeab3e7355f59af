"""A scorecard's wishes and the site's private adapter reach `client predict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from client.adapters.in_use import model_with, preferring
from client.cli import app
from client.data.case_files import save_case
from client.prediction.predict import Predictor, Sampled
from client.prediction.preferred import Preference, has_tradeoff, tradeoff_of
from shared_model.adapter.manifest import load_adapter
from shared_model.adapter.private import PrivatePolicy, PrivateShape
from shared_model.bundled import DEFAULT_ADAPTER, SCORECARDS
from shared_model.core.errors import InputError
from shared_model.scoring.scorecard_read import read_scorecard
from tests.builders.small_study import ellipsoid_case

CARD = SCORECARDS / "head_neck.yaml"
SPARING = """\
schema: rt-scorecard/2
name: sparing
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 40, points: [[30, 0], [70, 40]]}
  - {id: gland, structure: Parotid_L, metric: Mean, unit: Gy, direction: lower, weight: 60, points: [[0, 60], [70, 0]]}
"""


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private adapter for the bundled one, with weights that change something."""
    spec, vector, _ = load_adapter(DEFAULT_ADAPTER)
    policy = PrivatePolicy(spec, vector, PrivateShape(rank=2, alpha=2))
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.add_(0.05)
    path = tmp_path_factory.mktemp("private") / "private.safetensors"
    policy.adapter().save(path)
    return path


@pytest.mark.parametrize("best_of", [None, 4])
def test_a_dose_is_moved_to_what_the_card_asks_for(best_of: int | None) -> None:
    case = ellipsoid_case()
    plain = Predictor().predict(case, Sampled())
    moved = Predictor().predict(case, Sampled(preference=Preference(card_of=preferring(CARD), best_of=best_of)))
    bound = read_scorecard(CARD).bind(case)
    scores = [float(bound.score(torch.from_numpy(dose.dose_gy)[None].double())[0]) for dose in (plain, moved)]
    assert len(moved.scores) == (best_of or 2)
    assert moved.scores[0] == pytest.approx(scores[0], abs=1e-3)
    assert max(moved.scores) == pytest.approx(scores[1], abs=1e-3)
    assert scores[1] >= scores[0]
    assert any("as predicted" in note for note in moved.notes)
    assert (moved.dose_gy[~case.body] == 0).all()


def test_a_dose_is_steered_to_a_card_with_room_for_it(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(SPARING)
    case = ellipsoid_case()
    moved = Predictor().predict(case, Sampled(preference=Preference(card_of=preferring(tmp_path / "card.yaml"))))
    assert moved.scores[1] > moved.scores[0] + 1.0
    bound = read_scorecard(tmp_path / "card.yaml").bind(case)
    found = float(bound.score(torch.from_numpy(moved.dose_gy)[None].double())[0])
    assert found == pytest.approx(moved.scores[1], abs=1e-3)


def test_a_model_of_another_site_of_the_body_is_not_steered() -> None:
    assert has_tradeoff("head_neck")
    assert not has_tradeoff("pelvis")
    with pytest.raises(InputError, match="expected a model of head_neck, this one is of pelvis"):
        tradeoff_of("pelvis")


def test_a_private_adapter_changes_the_dose(private: Path) -> None:
    case = ellipsoid_case()
    shared, own = (Predictor(build=model_with(path)).predict(case, Sampled(samples=1)) for path in (None, private))
    assert not np.array_equal(shared.dose_gy, own.dose_gy)


def test_the_command_takes_both_and_says_so(private: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_case(tmp_path / "a.npz", ellipsoid_case())
    study, out = str(tmp_path / "a.npz"), str(tmp_path / "out")
    arguments = ["predict", study, "--out", out, "--best-of", "2", "--scorecard", str(CARD), "--private", str(private)]
    app([*arguments, "--json"], standalone_mode=False)
    record = json.loads(capsys.readouterr().out)
    assert record["drawn"]["preference"] == "the best of 2 plan-like doses"
    assert len(record["scores"]) == 2
    assert "private adapter" in record["notes"][0]
    for wrong, text in (
        (["--best-of", "2"], "--scorecard"),
        (["--steer"], "--scorecard"),
        (["--best-of", "2", "--steer", "--scorecard", str(CARD)], "not both"),
        (["--scorecard", str(CARD)], "--best-of"),
        (["--mean-of", "0"], "0 samples: expected 1 to 64"),
        (["--best-of", "1", "--scorecard", str(CARD)], "--best-of 1: expected 2 to 64"),
        (["--best-of", "2", "--scorecard", study], "a.npz"),
    ):
        with pytest.raises(InputError, match=text):
            app(["predict", study, "--out", str(tmp_path / "other"), *wrong], standalone_mode=False)
