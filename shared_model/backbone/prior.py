"""The prior: the public backbone. It is frozen and the same at every site."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from shared_model.backbone.checkpoint import tensors_hash
from shared_model.backbone.pyramid_prior import VARIABLE as PYRAMID_VARIABLE
from shared_model.backbone.pyramid_prior import pyramid_hash
from shared_model.backbone.wan_prior import VARIABLE as WAN_VARIABLE
from shared_model.backbone.wan_prior import wan_hash, wan_latents, wan_transformer
from shared_model.backbone.wan_vae import SCALE
from shared_model.bundled import PRIOR_FOLDERS
from shared_model.channels.layout import RECIPE as CHANNEL_RECIPE
from shared_model.channels.layout import SCALE as CHANNEL_SCALE
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes, write_text
from shared_model.diffusion.latents import Latents
from shared_model.diffusion.modalities import CT_RANGE_HU, HAAR
from shared_model.network.dit import SHARED, Any2AnyDiT
from shared_model.network.seeding import seeded
from shared_model.network.spec import FROM_FILES, Architecture, ModelSpec
from shared_model.network.switches import Switches
from shared_model.patient.case import MODALITIES


def save_prior(folder: Path, model: Any2AnyDiT, card: Mapping[str, object]) -> str:
    """Write a prior's weights and card as `simulate pretrain` does. Returns the SHA-256 hex of the weights.

    ``folder`` must be named as in ``ModelSpec.prior``.
    """
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    digest = tensors_hash(state)
    write_bytes(folder / "prior.safetensors", save(state), mode=ORDINARY)
    text = json.dumps({**card, "architecture": asdict(model.arch), "sha256": digest}, indent=1, sort_keys=True)
    write_text(folder / "card.json", text + "\n", mode=ORDINARY)
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


def prior_card(name: str) -> dict[str, Any]:
    """The model card of a bundled prior: data, recipe, command, date, hash."""
    _load(PRIOR_FOLDERS / name)
    card: dict[str, Any] = json.loads((PRIOR_FOLDERS / name / "card.json").read_text())
    return card


def use_prior_file(path: Path | None) -> None:
    """Name the weights of the prior ``wan`` or ``file`` to this process and its children; None leaves what is set.

    Sets ``FEDKT3D_WAN`` and ``FEDKT3D_PRIOR``, of which a model reads one.
    """
    if path is not None:
        os.environ[WAN_VARIABLE] = os.environ[PYRAMID_VARIABLE] = str(path.expanduser().resolve())


def prior_hash(spec: ModelSpec) -> str:
    """The prior's identity: the hash of its weights, or the seed of a random start.

    Raises InputError if the specification names a Wan checkpoint other than the one on this machine.
    """
    if spec.network == "pyramid":
        return pyramid_hash(spec)
    if spec.prior == "wan":
        found = wan_hash()
        if spec.prior_sha256 not in ("", found):
            raise InputError(
                f"model.prior=wan: the model specification names checkpoint {spec.prior_sha256[:12]}, {WAN_VARIABLE} "
                f"holds {found[:12]}; every party needs the same weights of transformer and autoencoder"
            )
        return found
    return f"none:{spec.init_seed}" if spec.prior == "none" else _load(PRIOR_FOLDERS / spec.prior)[2]


def pin_prior(spec: ModelSpec) -> ModelSpec:
    """Write the content hash of this machine's weights from files into the specification, before it is sent."""
    return replace(spec, prior_sha256=prior_hash(spec)) if spec.prior in FROM_FILES else spec


def load_latents(spec: ModelSpec) -> Latents:
    """The latents that encode the prior's volumes. Checks Wan's weights as ``prior_hash`` does."""
    if spec.prior != "wan":
        return HAAR
    prior_hash(spec)
    return wan_latents(spec.shape[0])


def normalisation(spec: ModelSpec) -> Mapping[str, tuple[float, float]]:
    """(mean, standard deviation) of each modality: public constants of this installation."""
    if spec.network == "pyramid":
        return CHANNEL_SCALE
    return SCALE if spec.prior == "wan" else HAAR.scale


def normalisation_hash(spec: ModelSpec) -> str:
    """SHA-256 hex of the constants that normalise volumes: mean and unit of each modality, and the CT range.

    They are those of this installation for ``spec``'s prior. Every party of a federation must have the same.
    """
    scale = normalisation(spec)
    constants: dict[str, object] = {"scale": {name: list(pair) for name, pair in scale.items()}}
    if spec.network == "pyramid":
        constants["channels"] = CHANNEL_RECIPE
    else:
        constants["ct_range_hu"] = list(CT_RANGE_HU)
    return hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()


def load_prior(spec: ModelSpec) -> Any2AnyDiT:
    """A new network with the prior's weights. With ``prior=none`` its weights are random, from ``init_seed``."""
    with seeded(spec.init_seed):
        model = _network(spec)
        if spec.has_base:
            model.take_estimate()
    return model


def _network(spec: ModelSpec) -> Any2AnyDiT:
    if spec.prior == "wan":
        prior_hash(spec)
        return wan_transformer(spec.switches)
    if spec.prior == "none":
        return Any2AnyDiT(Architecture(), spec.switches)
    arch, state, _ = _load(PRIOR_FOLDERS / spec.prior)
    model = Any2AnyDiT(arch, spec.switches)
    model.load_state_dict(fitted_state(state, spec.switches))
    return model


def fitted_state(state: Mapping[str, Tensor], switches: Switches) -> dict[str, Tensor]:
    """The prior's weights, changed to fit a model with ``switches``.

    A shared patch embedding starts at the mean of the modalities' own embeddings. This is exact for a video prior,
    whose embeddings are copies of one, and the least-squares choice elsewhere. A model without a role embedding does
    not get its weights.
    """
    fitted = dict(state)
    if switches.patch_embedding == "shared":
        for leaf in ("weight", "bias"):
            own = torch.stack([fitted.pop(f"patch.{m}.{leaf}") for m in MODALITIES])
            fitted[f"patch.{SHARED}.{leaf}"] = own.mean(0)
    if not switches.role_embedding:
        del fitted["role.weight"]
    return fitted
