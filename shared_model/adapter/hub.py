"""What tools of others read beside an adapter's file: PEFT's configuration and weights, a card for Hugging Face.

``README.md`` is the card (adapter/card.py) for people, with YAML front matter. Where the adapter has low-rank updates,
``adapter_config.json`` and ``adapter_model.safetensors`` hold them in the names of the library peft, which loads them
over the frozen prior. What an adapter trains beside them is in its own file alone, and the README says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import __version__ as peft_version
from safetensors.torch import save
from torch import Tensor

from shared_model.adapter.manifest import tensors
from shared_model.adapter.shared import adapted_model
from shared_model.core.files import ORDINARY, write_bytes, write_text
from shared_model.core.vector import Vector
from shared_model.forms.interface import form_of
from shared_model.network.spec import ModelSpec

README = "README.md"
PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
_MARK = "<!-- Written by fedkt3d from the adapter's card; changes here are lost. -->"
_TAGS = ["radiotherapy", "dose-prediction", "medical-imaging", "diffusion", "federated-learning"]


def write_hub_files(adapter: Path, spec: ModelSpec, vector: Vector, card: Mapping[str, Any]) -> None:
    """Write the files beside ``adapter``, whose model, vector (d,) and card are given.

    A README.md that somebody else wrote stays as it is.
    """
    folder = adapter.parent
    low_rank, others = _parts(spec, vector)
    if low_rank:
        write_bytes(folder / PEFT_WEIGHTS, save(low_rank, {"format": "pt"}), mode=ORDINARY)
        config = json.dumps(peft_config(spec), indent=1, sort_keys=True) + "\n"
        write_text(folder / PEFT_CONFIG, config, mode=ORDINARY)
    readme = folder / README
    if not readme.exists() or _MARK in readme.read_text(encoding="utf-8", errors="replace"):
        counts = sum(t.numel() for t in low_rank.values()), sum(others.values())
        write_text(readme, _readme(adapter.name, spec, card, counts), mode=ORDINARY)


def peft_config(spec: ModelSpec) -> dict[str, Any]:
    """What peft's LoraConfig needs to put the low-rank updates where they were trained (adapter/shared.py)."""
    return {
        "peft_type": "LORA",
        "peft_version": peft_version,
        "task_type": None,
        "inference_mode": True,
        "base_model_name_or_path": f"fedkt3d {spec.network}, prior {spec.prior}",
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "target_modules": list(form_of(spec).lora),
        "bias": "none",
    }


def _parts(spec: ModelSpec, vector: Vector) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(low-rank updates by peft's names, numbers in each other tensor by our name)."""
    low_rank: dict[str, Tensor] = {}
    others: dict[str, int] = {}
    frozen = (
        {}
        if spec.adapter != "ffa-lora"
        else {name: p.detach().numpy() for name, p in adapted_model(spec).stored_parameters() if ".lora_A." in name}
    )
    for name, values in (frozen | tensors(spec, vector)).items():
        if ".lora_" in name:
            low_rank[f"base_model.model.{name.replace('.shared.', '.')}"] = torch.tensor(values)
        else:
            others[name] = values.size
    return low_rank, others


def _readme(file: str, spec: ModelSpec, card: Mapping[str, Any], counts: tuple[int, int]) -> str:
    low_rank, others = counts
    front = {
        "library_name": "peft" if low_rank else "fedkt3d",
        "license": "unknown",
        "tags": [*_TAGS, *(["lora"] if low_rank else [])],
        "pipeline_tag": "image-to-image",
    }
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{_MARK}",
        f"# Dose prediction adapter {card.get('name', '')}".rstrip(),
        "Predicts a radiotherapy dose from CT, targets, organs at risk and beams: a diffusion network of FedKT3D"
        f" (`{spec.network}`, prior `{spec.prior}`). For research only.",
        f"```\nclient predict CASE --adapter {file}\n```",
        f"## What is in the files\n\n{_contents(file, spec, low_rank, others)}",
        f"## Training\n\n{_training(card)}",
        f"## Privacy\n\n{card.get('privacy', {}).get('statement', 'Not known: the adapter has no card.')}",
        f"## Scores\n\n{_scores(card.get('metrics', {}))}",
    ]
    return "\n\n".join(sections) + "\n"


def _contents(file: str, spec: ModelSpec, low_rank: int, others: int) -> str:
    whole = f"`{file}`: all {low_rank + others:,} numbers that were trained (adapter `{spec.adapter}`)."
    if not low_rank:
        return f"{whole} This is not LoRA: they take the place of the network's own weights, and peft cannot load them."
    loaded = (
        f"`{PEFT_WEIGHTS}` and `{PEFT_CONFIG}`: the {low_rank:,} of them that are low-rank updates (LoRA, rank"
        f" {spec.rank}, alpha {spec.alpha}), in the names of peft:"
    )
    code = (
        "```python\nfrom peft import PeftModel\nfrom shared_model.forms.interface import form_of\n"
        "from shared_model.network.spec import ModelSpec\n\n"
        f"spec = ModelSpec.from_json({spec.to_json()!r})\n"
        "network = PeftModel.from_pretrained(form_of(spec).network(), FOLDER).base_model.model\n```"
    )
    rest = (
        f"**Not LoRA:** the other {others:,} numbers (stems, embeddings, heads, base) replace weights and"
        f" are in `{file}` alone. Without them the dose is another one: use `client predict`."
        if others
        else "Nothing else was trained: loaded so, the network gives the same dose as `client predict`."
    )
    return "\n\n".join([whole, loaded, code, rest])


def _training(card: Mapping[str, Any]) -> str:
    sites, patients = card.get("sites", {}), card.get("patients")
    if patients is None:
        return "Not known: the adapter has no card."
    how = card.get("privacy", {}).get("mode", "unknown")
    rounds = card.get("rounds", 0)
    where = f"{patients} patients of {len(sites)} sites, {rounds} rounds" if rounds else f"{patients} pooled patients"
    lines = [f"{where}, mode `{how}`, {card['date']}."]
    trained = card.get("trained_on")
    if trained:
        ranges = ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in sorted(trained["ranges"].items()))
        how = "from noised counts" if "noise_sd" in trained else "1st to 99th percentile"
        lines.append(f"Patients it was trained on ({how}): {ranges}. Others are refused or noted.")
    lines.append(f"SHA-256 of the vector: `{card['adapter']['sha256']}`. Versions: {_pairs(card.get('versions', {}))}.")
    return "\n\n".join(lines)


def _scores(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return "None were measured."
    rows = [f"| {name} | {value:.3f} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| measure (Gy, mean over validation patients) | value |", "|---|---:|", *rows])


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(values.items()))
