"""`simulate baselines` on phantoms: every method beats the constant, upsampling is aligned, the table says it all."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from rich.progress import Progress, TextColumn

from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from shared_model.scoring.dosimetry import score_case
from simulations.reports.scoring import upsample
from simulations.settings.commands import BASELINES, baselines_settings
from simulations.studies.baselines import METHODS, run_baselines

OPENKBP = os.environ.get("FEDKT3D_OPENKBP")
TINY = ["data.sites=1", "data.patients=5", "model.base_fourier=20", "unet_cpu_s=12"]


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


def test_every_method_is_there() -> None:
    assert tuple(METHODS) == BASELINES


def test_the_simple_models_are_ordered_as_they_should_be(tmp_path: Path) -> None:
    table = run_baselines(baselines_settings([*TINY, "methods=[constant,atlas,ridge,unet]", f"out={tmp_path}"]), bars())
    found = json.loads((tmp_path / "baselines.json").read_text())["methods"]
    scores = {name: of["dose_score_gy"] for name, of in found.items()}
    assert scores["ridge"] < scores["atlas"] < scores["constant"]
    assert scores["unet"] < scores["constant"]
    assert all(of["patients"] >= 1 and of["fit_cpu_s"] >= 0 for of in found.values())
    assert all(f"| {name} | {score:.2f} |" in table for name, score in scores.items())


def test_boosting_needs_the_extra_and_says_so(tmp_path: Path) -> None:
    settings = baselines_settings([*TINY, "methods=[gbm5]", f"out={tmp_path}"])
    if importlib.util.find_spec("lightgbm") is None:
        with pytest.raises(InputError, match=r"fedkt3d\[baselines\]"):
            run_baselines(settings, bars())
    else:
        assert "| gbm5 |" in run_baselines(settings, bars())


@pytest.mark.parametrize("bad", ["methods=[forest]", "methods=[]", "split=train", "unet_cpu_s=0"])
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
