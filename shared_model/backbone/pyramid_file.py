"""A trained PyramidDiT as two files: bf16 weights in safetensors, and a JSON card that says what they are.

The card's hash is over the bf16 numbers, so that weights and card belong together whatever file holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from shared_model.backbone.checkpoint import tensors_hash
from shared_model.channels.layout import BEAM, NAMES, RECIPE, SCALE
from shared_model.core.errors import InputError
from shared_model.network.pyramid import PyramidDiT, PyramidSpec
from shared_model.network.seeding import seeded

KIND = "pyramid-dit"


def packed(tensors: Mapping[str, Tensor], spec: PyramidSpec, words: Mapping[str, object]) -> tuple[bytes, str]:
    """(safetensors, card) of weights by name; ``words`` go into the card as they are."""
    small = {name: tensor.detach().cpu().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    card = {
        "kind": KIND,
        "parameters": sum(t.numel() for t in small.values()),
        "sha256": tensors_hash(small),
        "spec": asdict(spec),
        "channels": {"recipe": RECIPE, "names": NAMES, "beam": BEAM, "scale": SCALE},
        **words,
    }
    return save(small, metadata={"kind": KIND}), json.dumps(card, indent=1, sort_keys=True)


def read_network(path: Path) -> tuple[PyramidDiT, dict[str, Any]]:
    """The network in ``path`` (.safetensors) and its card (the same name, .json), in evaluation.

    Raises InputError naming the file if either is missing or damaged, of another kind or of other channels than this
    version makes.
    """
    card_path = path.with_suffix(".json")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["spec"].items()}
        spec = PyramidSpec(**sizes)
        channels = card["channels"]["recipe"]
        digest = card["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{card_path}: no card of a {KIND} ({type(error).__name__})") from None
    if card.get("kind") != KIND or channels != RECIPE:
        raise InputError(f"{card_path}: kind {card.get('kind')!r} with channels {channels}; expected {KIND}, {RECIPE}")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({type(error).__name__})") from None
    if tensors_hash(tensors) != digest:
        raise InputError(f"{path}: its numbers are not those of {card_path.name}; copy both again")
    with seeded(0):
        network = PyramidDiT(spec)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError:
        raise InputError(f"{path}: its weights do not fit the sizes in {card_path.name}") from None
    return network.eval(), card
