"""`simulate evaluate`: the whole model, and the base of a residual form alone."""

import csv
import json
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from client.data.load import load_case
from shared_model.adapter.manifest import initial_vector, save_adapter, unpack
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import base_gy
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.scoring.dosimetry import score_case, summarise
from simulations.data.datasets import evaluation_sites
from simulations.settings.commands import evaluate_settings
from simulations.studies.evaluate import evaluate_adapter, withheld
from tests.builders.openkbp_cohort import SPLITS, write_cohort
from tests.builders.small_case import small_case

BASED = ModelSpec(prior="none", shape=(16, 16, 16), base="phantom", precision="fp32")
COHORT = ("data.sites=1", "data.patients=4", "threads=1")


def scored(out: Path, spec: ModelSpec, *overrides: str) -> dict[str, float]:
    path = out.parent / "adapter.safetensors"
    save_adapter(path, spec, initial_vector(spec))
    settings = evaluate_settings([f"adapter={path}", f"out={out}", *COHORT, *overrides])
    evaluate_adapter(settings, Progress(disable=True))
    return dict(json.loads((out / "summary.json").read_text())["metrics"])


def test_the_base_alone_is_scored_without_the_diffusion_model(tmp_path: Path) -> None:
    whole, base = scored(tmp_path / "whole", BASED), scored(tmp_path / "base", BASED, "part=base")
    settings = evaluate_settings(["adapter=default", f"out={tmp_path / 'base'}", *COHORT])
    model = adapted_model(BASED)
    unpack(model, initial_vector(BASED))
    expected = []
    for site in evaluation_sites(settings.data, settings.split, settings.out, settings.seed):
        for case_id in site.validation:
            case = load_case(site, case_id)
            dose = base_gy(case, BASED, model)
            assert dose is not None
            expected.append(score_case(case, torch.from_numpy(dose)))
    assert base == summarise(expected)
    assert base != whole


def test_a_model_without_a_base_has_none_to_score(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part=base"):
        scored(tmp_path / "out", ModelSpec(prior="none", shape=(16, 16, 16)), "part=base")
    with pytest.raises(InputError, match="part='half'"):
        evaluate_settings(["part=half"])


def test_limits_that_would_not_be_followed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "half64").mkdir()
    (tmp_path / "splits.json").write_text("{}")
    settings = evaluate_settings(["data=openkbp", f"data.root={tmp_path}", "data.validation_per_site=4"])
    with pytest.raises(InputError, match=r"data\.validation_per_site=4"):
        evaluation_sites(settings.data, "validation", tmp_path, 0)


def test_the_summary_says_what_made_the_dose_and_what_was_withheld(tmp_path: Path) -> None:
    spec = ModelSpec(network="pyramid", prior="none", adapter="bias")
    whole = scored(tmp_path / "whole", spec, "flips=false")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["model"] == {"kind": "diffusion", "network": "pyramid", "parameters": 9_398_733, "steps": 1}
    without = scored(tmp_path / "without", spec, "flips=false", "without=[ct,beam]")
    assert without != whole
    with pytest.raises(InputError, match=r"without=\['ptv'\]: expected some of ct, oar, beam, angle"):
        evaluate_settings(["without=[ptv]"])


def test_a_cohort_in_openkbps_form_is_scored_whole_and_at_its_own_resolution(tmp_path: Path) -> None:
    """split=all: patients of all three splits; upsampled onto the native grid; with and without CT apart."""
    root, spec = write_cohort(tmp_path / "openkbp"), ModelSpec(network="pyramid", size="small", prior="none")
    save_adapter(tmp_path / "adapter.safetensors", spec, initial_vector(spec))
    told = ["data=openkbp", f"data.root={root}", "split=all", "flips=false", "threads=1", "device=cpu"]
    settings = evaluate_settings([f"adapter={tmp_path / 'adapter.safetensors'}", f"out={tmp_path / 'out'}", *told])
    screen = evaluate_adapter(settings, Progress(disable=True))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["split"] == "all"
    assert summary["model"] == {"kind": "diffusion", "network": "pyramid", "parameters": 1_732_493, "steps": 1}
    assert summary["metrics"]["patients"] == summary["native"]["patients"] == 4
    assert (summary["with_ct"]["metrics"]["patients"], summary["without_ct"]["native"]["patients"]) == (3, 1)
    for scores in (summary["metrics"], summary["native"]):
        assert all(0 < scores[key] < 80 for key in ("dose_score_gy", "dvh_score_gy", "mae_ref5_gy"))
    # Native voxels are eight times as many, and the edge of the dose is theirs.
    assert summary["native"]["dose_score_gy"] != summary["metrics"]["dose_score_gy"]
    assert summary["native"]["dose_score_gy"] == pytest.approx(summary["metrics"]["dose_score_gy"], rel=0.2)
    assert "4 of them at native resolution" in screen
    rows = list(csv.DictReader((tmp_path / "out" / "patients.csv").open()))
    assert {row["case"] for row in rows} == {case_id for split in SPLITS.values() for case_id in split}


def test_withholding_leaves_everything_else() -> None:
    case = small_case()
    bare = withheld(case, ("ct", "oar"))
    assert bare.ct_hu is None
    assert set(bare.structures) == set(case.targets)
    assert bare.beam_plate is case.beam_plate
    assert withheld(case, ()) == case
