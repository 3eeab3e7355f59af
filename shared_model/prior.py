"""The prior: the public, frozen backbone that is the same at every site."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared_model.case import MODALITIES
from shared_model.dit import SHARED, Any2AnyDiT
from shared_model.errors import InputError
from shared_model.spec import Architecture, ModelSpec
from shared_model.switches import Switches

BUNDLED = Path(__file__).parent / "prior_small"


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in name order; hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}:{tuple(tensors[name].shape)};".encode())
        digest.update(tensors[name].detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_prior(folder: Path, model: Any2AnyDiT, card: Mapping[str, object]) -> str:
    """Write weights and card; returns the hash of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    digest = tensors_hash(state)
    save_file(state, folder / "prior.safetensors")
    text = json.dumps({**card, "architecture": asdict(model.arch), "sha256": digest}, indent=1, sort_keys=True)
    (folder / "card.json").write_text(text + "\n")
    return digest


@lru_cache(maxsize=4)
def _load(folder: Path) -> tuple[Architecture, dict[str, Tensor], str]:
    try:
        card = json.loads((folder / "card.json").read_text())
        state = load_file(folder / "prior.safetensors")
    except (OSError, ValueError) as error:
        raise InputError(f"prior {folder.name}: cannot be read ({type(error).__name__}); reinstall fedkt3d") from error
    arch = dict(card["architecture"])
    arch["patch"] = tuple(arch["patch"])
    digest = tensors_hash(state)
    if digest != card["sha256"]:
        raise InputError(f"prior {folder.name}: weights do not match the card's sha256; reinstall fedkt3d")
    return Architecture(**arch), state, digest


def prior_hash(spec: ModelSpec) -> str:
    """Identity of the prior: hash of its weights, or the seed of a random start."""
    return _load(BUNDLED)[2] if spec.prior == "small" else f"none:{spec.init_seed}"


def load_prior(spec: ModelSpec) -> Any2AnyDiT:
    """A new model that holds the prior's weights; ``prior=none`` starts at random from ``init_seed``."""
    if spec.prior == "none":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.init_seed)
            return Any2AnyDiT(Architecture(), spec.switches)
    arch, state, _ = _load(BUNDLED)
    model = Any2AnyDiT(arch, spec.switches)
    model.load_state_dict(fitted_state(state, spec.switches))
    return model


def fitted_state(state: Mapping[str, Tensor], switches: Switches) -> dict[str, Tensor]:
    """The prior's weights for a model with ``switches``.

    A shared patch embedding starts at the mean of the modalities' own: exact where they are copies of one (a video
    prior), the least-squares choice elsewhere. Without a role embedding its weights are left out.
    """
    fitted = dict(state)
    if switches.patch_embedding == "shared":
        for leaf in ("weight", "bias"):
            own = torch.stack([fitted.pop(f"patch.{m}.{leaf}") for m in MODALITIES])
            fitted[f"patch.{SHARED}.{leaf}"] = own.mean(0)
    if not switches.role_embedding:
        del fitted["role.weight"]
    return fitted
