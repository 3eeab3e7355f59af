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


def test_a_training_begins_from_an_adapter_and_says_so(tmp_path: Path) -> None:
    asked = [
        "data=phantom", "data.sites=1", "data.patients=3", f"cache={tmp_path / 'cache'}", "every=2", "sampled=0",
        "precision=fp32", "size=small", "samples=2",
    ]  # fmt: skip
    began = study.starting_weights(study.train_settings([*asked, "start=phantom"]).start or tmp_path, "small")

    def trained(*more: str) -> dict[str, torch.Tensor]:
        out = tmp_path / "_".join(("out", *more)).replace("=", "_").replace("/", "_")
        with Progress(disable=True) as bars:
            study.train_backbone(study.train_settings([*asked, f"out={out}", *more]), bars)
        _, _, card = load_adapter(out / "adapter.safetensors")
        said = began.sha256 if "start=phantom" in more else None
        assert card["training"].get("start_sha256") == said
        return study.starting_weights(out / "adapter.safetensors", "small").weights

    # A rate of nearly nothing: what a training leaves is what it began from, to bf16.
    still = "lr=1e-9"
    for name, weights in trained("start=phantom", still).items():
        torch.testing.assert_close(weights, began.weights[name], rtol=0.01, atol=1e-4)
    random = trained(still)
    assert any(float((random[name] - began.weights[name]).abs().max()) > 0.1 for name in random)
    # A second leg says the same start; another one, or none, is another training.
    out = tmp_path / "out_start_phantom_lr_1e-9"
    longer = study.train_settings([*asked, f"out={out}", still, "samples=4"])
    with Progress(disable=True) as bars, pytest.raises(InputError, match=r"began from other weights \(start\)"):
        study.train_backbone(longer, bars)
    with pytest.raises(InputError, match=r"start=.*size base with adapter full; expected all weights"):
        study.starting_weights(study.DEFAULT_ADAPTER, "small")


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(InputError, match="every"):
        study.train_settings(["data=phantom", "every=0"])
    with pytest.raises(InputError, match="any_share"):
        study.train_settings(["data=phantom", "any_share=2.0"])
    with pytest.raises(InputError, match="size='big': expected small or base"):
        study.train_settings(["data=phantom", "size=big"])
