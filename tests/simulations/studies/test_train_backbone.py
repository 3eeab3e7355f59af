from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

import simulations.studies.train_backbone as study
from shared_model.adapter.envelope import Envelope
from shared_model.adapter.manifest import load_adapter, unpack
from shared_model.adapter.shared import adapted_model
from shared_model.backbone.prior import prior_hash
from shared_model.core.errors import InputError
from tests.builders.event_files import events


def test_a_leg_and_the_next_on_phantoms_and_the_adapter_they_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        "data=phantom", "data.sites=1", "data.patients=3", f"out={tmp_path}", "every=2", "sampled=1", "precision=fp32",
        "size=small",
    ]  # fmt: skip
    for samples in (2, 4):
        settings = study.train_settings([*asked, f"samples={samples}"])
        with Progress(disable=True) as bars:
            report = study.train_backbone(settings, bars)
        assert report.startswith(f"{samples} samples: ")
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0].startswith("samples,cpu_min,train_gy,rate,dose,dvh,")
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4"]
    steps = {event.step for event in events(tmp_path / "tensorboard") if event.HasField("summary")}
    assert steps == {2, 4}
    adapter = tmp_path / "adapter.safetensors"
    spec, vector, card = load_adapter(adapter)
    assert [row["samples"] for row in card["training"]["curve"]] == [2.0, 4.0]
    assert card["privacy"]["mode"] == "central"
    assert Envelope.from_card(card) is not None
    # Each number takes two bytes, and the file is a prior for low-rank updates.
    assert adapter.stat().st_size < 2.02 * vector.size
    with pytest.raises(InputError, match="FEDKT3D_PRIOR is not set"):
        prior_hash(replace(spec, prior="file"))
    monkeypatch.setenv("FEDKT3D_PRIOR", str(adapter))
    whole = adapted_model(spec)
    unpack(whole, vector)
    weights = dict(whole.network.named_parameters())
    for name, parameter in adapted_model(replace(spec, prior="file", adapter="bias")).network.named_parameters():
        assert torch.equal(parameter, weights[name])
    with pytest.raises(InputError, match=r"weights of model\.size=small; expected model\.size=base"):
        prior_hash(replace(spec, prior="file", size="base"))
    with pytest.raises(InputError, match="every party needs the same file"):
        prior_hash(replace(spec, prior="file", prior_sha256="0" * 64))


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(InputError, match="every"):
        study.train_settings(["data=phantom", "every=0"])
    with pytest.raises(InputError, match="any_share"):
        study.train_settings(["data=phantom", "any_share=2.0"])
    with pytest.raises(InputError, match="size='big': expected small or base"):
        study.train_settings(["data=phantom", "size=big"])
