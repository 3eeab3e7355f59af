"""`simulate baselines` on phantoms: every method beats the constant, upsampling is aligned, the table says it all."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress, TextColumn

from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.base import linear
from shared_model.channels.features import highest_gy, physics_features
from shared_model.core.errors import InputError
from shared_model.scoring.dosimetry import score_case
from simulations.phantom.hospitals import STYLES, write_hospital
from simulations.reports.scoring import upsample
from simulations.settings.commands import BASELINES, baselines_settings
from simulations.studies.baselines import METHODS, TrainingPatients, run_baselines

OPENKBP = os.environ.get("FEDKT3D_OPENKBP")
TINY = ["data.sites=1", "data.patients=5", "ridge_fourier=20", "unet_cpu_s=12", "voxel_steps=100"]


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


def test_every_method_is_there() -> None:
    assert tuple(METHODS) == BASELINES


def test_the_simple_models_are_ordered_as_they_should_be(tmp_path: Path) -> None:
    table = run_baselines(
        baselines_settings([*TINY, "methods=[constant,atlas,ridge,unet,voxel]", f"out={tmp_path}"]), bars()
    )
    found = json.loads((tmp_path / "baselines.json").read_text())["methods"]
    scores = {name: of["dose_score_gy"] for name, of in found.items()}
    assert scores["ridge"] < scores["atlas"] < scores["constant"]
    assert max(scores["unet"], scores["voxel"]) < scores["constant"]
    assert all(of["patients"] >= 1 and of["fit_cpu_s"] >= 0 for of in found.values())
    assert all(f"| {name} | {score:.2f} |" in table for name, score in scores.items())


def test_the_ridge_row_is_the_pooled_ridge_regression(tmp_path: Path) -> None:
    """Against stacked least squares with the penalty as rows of its own."""
    site = write_hospital(tmp_path, STYLES["balanced_7f"], 4, 1, shape=(16, 16, 16))
    settings = baselines_settings([*TINY, "ridge_fourier=0"])
    predict = METHODS["ridge"](TrainingPatients(site=site), settings)
    cases = [load_case(site, case_id) for case_id in site.train]
    rows, ratios = [], []
    for case in cases:
        features, weight = physics_features(case), (min(len(physics_features(case)), 2000) * len(cases)) ** -0.5
        chosen = np.random.RandomState(len(features)).permutation(len(features))[:2000]
        rows.append(weight * linear.design(features[chosen]).astype(np.float64))
        ratios.append(weight * np.minimum(case.dose_gy[case.body][chosen] / highest_gy(case), 3.0))
    penalty = linear.PENALTY**0.5 * np.eye(linear.columns())
    x, y = np.concatenate([*rows, penalty]), np.concatenate([*ratios, np.zeros(len(penalty))])
    weights = np.linalg.lstsq(x, y, rcond=None)[0].astype(np.float32)
    for case in cases:
        expected = linear.predict(case, physics_features(case), weights)
        np.testing.assert_allclose(predict(case), expected, atol=0.01)


def test_boosting_needs_the_extra_and_says_so(tmp_path: Path) -> None:
    settings = baselines_settings([*TINY, "methods=[gbm5]", f"out={tmp_path}"])
    if importlib.util.find_spec("lightgbm") is None:
        with pytest.raises(InputError, match=r"fedkt3d\[baselines\]"):
            run_baselines(settings, bars())
    else:
        assert "| gbm5 |" in run_baselines(settings, bars())


@pytest.mark.parametrize("bad", ["methods=[forest]", "methods=[]", "split=train", "unet_cpu_s=0", "voxel_steps=0"])
def test_bad_settings_are_refused(bad: str) -> None:
    with pytest.raises(InputError, match=bad.split("=")[0]):
        baselines_settings([bad])


@pytest.mark.skipif(OPENKBP is None, reason="FEDKT3D_OPENKBP is not set")
def test_half_resolution_loses_little_at_native_resolution() -> None:
    """A misplaced half grid (by one native voxel) costs more than a gray; the measured loss is 0.4 Gy."""
    half, full = (
        SiteConfig(site="a", data=data, root=Path(str(OPENKBP)), train=(), validation=("pt_210",))
        for data in ("openkbp", "openkbp128")
    )
    coarse = load_case(half, "pt_210")
    fine = load_case(full, "pt_210")
    assert coarse.dose_gy is not None
    dose = upsample(torch.from_numpy(coarse.dose_gy), coarse, fine)
    assert dose.dtype == torch.float32
    assert score_case(fine, dose).dose_score_gy < 0.6
