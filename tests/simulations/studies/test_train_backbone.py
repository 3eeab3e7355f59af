from pathlib import Path

import pytest
from rich.progress import Progress

import simulations.studies.train_backbone as study
from shared_model.backbone.pyramid_file import read_network
from shared_model.core.errors import InputError
from tests.builders.small_case import TINY


def test_a_leg_and_the_next_on_phantoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PyramidSpec", lambda: TINY)
    asked = [
        "data=phantom", "data.sites=1", "data.patients=3", f"out={tmp_path}", "every=2", "sampled=1", "precision=fp32",
    ]  # fmt: skip
    for samples in (2, 4):
        settings = study.train_settings([*asked, f"samples={samples}"])
        with Progress(disable=True) as bars:
            report = study.train_backbone(settings, bars)
        assert report.startswith(f"{samples} samples: ")
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0].startswith("samples,cpu_min,train_gy,rate,dose,dvh,")
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4"]
    _, card = read_network(tmp_path / "model.safetensors")
    assert card["training"]["curve"][0]["samples"] == 4


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(InputError, match="every"):
        study.train_settings(["data=phantom", "every=0"])
    with pytest.raises(InputError, match="any_share"):
        study.train_settings(["data=phantom", "any_share=2.0"])
