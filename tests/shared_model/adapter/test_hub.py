"""Files for tools of others: peft loads the low-rank updates and gives our dose; Hugging Face reads the card."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel

from shared_model.adapter.card import adapter_card
from shared_model.adapter.hub import PEFT_CONFIG, PEFT_WEIGHTS, README, write_hub_files
from shared_model.adapter.manifest import initial_vector, manifest_hash, save_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import DoseModel
from shared_model.core.vector import Vector
from shared_model.forms.interface import form_of
from shared_model.network.spec import ModelSpec
from shared_model.prediction.predictor import predict_dose
from tests.builders.small_case import small_case

LORA = ModelSpec(network="pyramid", prior="none", adapter="lora", rank=4, alpha=8, precision="fp32")


def written(folder: Path, spec: ModelSpec) -> Vector:
    """The files of an adapter that is far from its start."""
    start = initial_vector(spec)
    vector = start + np.random.default_rng(0).normal(0.0, 0.05, start.size).astype(np.float32)
    adapter = folder / "adapter.safetensors"
    identity = {"sha256": vector_hash(vector), "file_sha256": save_adapter(adapter, spec, vector)}
    identity |= {"numbers": str(vector.size), "manifest": manifest_hash(spec)}
    report = {
        "name": "trial", "seed": 0, "rounds": 3, "sites": {"Berlin": 4, "Oslo": 5}, "privacy": {"mode": "masked"},
    }  # fmt: skip
    card = adapter_card(spec, identity, report, {"dose_score_gy": 2.5}, "2026-11-29T00:00:00+00:00")
    write_hub_files(adapter, spec, vector, card)
    return vector


@pytest.mark.parametrize("network", ["pyramid", "transformer"])
def test_peft_loads_the_low_rank_updates_and_gives_the_same_dose(tmp_path: Path, network: str) -> None:
    spec = LORA if network == "pyramid" else ModelSpec(
        prior="none", adapter="lora", rank=4, alpha=8, shape=(16, 16, 16), precision="fp32"
    )  # fmt: skip
    vector, case = written(tmp_path, spec), small_case()
    ours = adapted_model(spec)
    unpack(ours, vector)
    loaded = PeftModel.from_pretrained(form_of(spec).network(), str(tmp_path))
    theirs = DoseModel(loaded.base_model.model)
    bare = DoseModel(form_of(spec).network())
    doses = []
    with torch.no_grad():
        for model in (ours, theirs, bare):
            doses.append(predict_dose(model.eval(), case, spec, seed=1))
    assert torch.equal(doses[0], doses[1])
    assert not torch.allclose(doses[0], doses[2], atol=0.05)


def test_the_configuration_is_that_of_our_own_injection(tmp_path: Path) -> None:
    written(tmp_path, LORA)
    config = LoraConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_alpha, config.bias) == (4, 8, "none")
    assert set(config.target_modules) == set(form_of(LORA).lora)


def test_the_readme_is_a_card_that_says_what_is_not_lora_and_no_site(tmp_path: Path) -> None:
    for name, spec in (("lora", LORA), ("both", replace(LORA, adapter="lora+embeddings"))):
        (tmp_path / name).mkdir()
        written(tmp_path / name, spec)
    pure, both = (ModelCard.load(tmp_path / name / README) for name in ("lora", "both"))
    assert pure.data.library_name == both.data.library_name == "peft"
    assert "lora" in pure.data.tags
    assert "Nothing else was trained" in pure.text
    others = initial_vector(replace(LORA, adapter="lora+embeddings")).size - initial_vector(LORA).size
    assert f"**Not LoRA:** the other {others:,} numbers" in both.text
    assert "9 patients of 2 sites" in both.text
    assert "A sum is not patient privacy" in both.text
    assert "| dose_score_gy | 2.500 |" in both.text
    assert "Berlin" not in both.text


def test_an_adapter_without_low_rank_updates_has_a_card_alone(tmp_path: Path) -> None:
    written(tmp_path, replace(LORA, adapter="bias"))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter.safetensors", README}
    card = ModelCard.load(tmp_path / README)
    assert card.data.library_name == "fedkt3d"
    assert "This is not LoRA" in card.text


def test_a_readme_of_somebody_else_stays_and_ours_is_renewed(tmp_path: Path) -> None:
    readme = tmp_path / README
    readme.write_text("our group's notes\n")
    written(tmp_path, LORA)
    assert readme.read_text() == "our group's notes\n"
    assert json.loads((tmp_path / PEFT_CONFIG).read_text())["peft_type"] == "LORA"
    assert (tmp_path / PEFT_WEIGHTS).is_file()
    readme.unlink()
    written(tmp_path, LORA)
    readme.write_text(readme.read_text() + "changed")
    written(tmp_path, LORA)
    assert "changed" not in readme.read_text()
