"""Trained weights of the U-shaped network as a frozen prior, read from a full adapter's file.

``bundled``: the default adapter's weights. ``phantom``: weights of size small that phantoms made. Every installation
has both. ``file``: those of the full adapter that ``FEDKT3D_PRIOR`` names, as `simulate train` and a run with
model.adapter=full write it. Every party sets its own path. Specifications and messages hold only the hash of the
weights, never the path.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared_model.backbone.checkpoint import tensors_hash
from shared_model.bundled import DEFAULT_ADAPTER, PHANTOM_PRIOR
from shared_model.core.errors import InputError
from shared_model.network.pyramid import SIZES, PyramidDiT
from shared_model.network.seeding import seeded
from shared_model.network.spec import ModelSpec

VARIABLE = "FEDKT3D_PRIOR"


def pyramid_hash(spec: ModelSpec) -> str:
    """SHA-256 hex of the prior's weights, or the seed of a random start.

    InputError if the specification names weights other than those on this machine.
    """
    if spec.prior == "none":
        return f"none:{spec.init_seed}"
    found = _weights(spec)[1]
    if spec.prior_sha256 not in ("", found):
        raise InputError(
            f"model.prior={spec.prior}: the model specification names weights {spec.prior_sha256[:12]}, {VARIABLE} "
            f"holds {found[:12]}; every party needs the same file"
        )
    return found


def pyramid_network(spec: ModelSpec) -> PyramidDiT:
    """A new network with the prior's weights, or random ones from ``init_seed``."""
    with seeded(spec.init_seed):
        network = PyramidDiT(SIZES[spec.size])
    if spec.prior != "none":
        pyramid_hash(spec)
        network.load_state_dict(_weights(spec)[0])
    return network


def _weights(spec: ModelSpec) -> tuple[dict[str, Tensor], str]:
    path = PHANTOM_PRIOR if spec.prior == "phantom" else DEFAULT_ADAPTER
    if spec.prior == "file":
        named = os.environ.get(VARIABLE, "")
        if not named:
            raise InputError(f"model.prior=file: {VARIABLE} is not set; expected the path of a full adapter's file")
        path = Path(named)
        if not path.is_absolute():
            raise InputError(f"{VARIABLE}={named}: expected an absolute path")
    try:
        stat = path.stat()
    except OSError:
        raise InputError(f"model.prior={spec.prior}: {path}: no such file; expected a full adapter's file") from None
    return _read(path, spec.size, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, size: str, _changed_ns: int, _bytes: int) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, "pt") as file:
            held = ModelSpec.from_json((file.metadata() or {})["spec"])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (a file)
    except (OSError, SafetensorError, KeyError, InputError) as error:
        raise InputError(f"{path}: cannot be read as an adapter ({type(error).__name__})") from None
    if held.network != "pyramid" or held.adapter != "full":
        raise InputError(
            f"{path}: network {held.network}, adapter {held.adapter}; a prior needs network pyramid, adapter full"
        )
    if held.size != size:
        raise InputError(f"{path}: weights of model.size={held.size}; expected model.size={size}, as the run's model")
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in PyramidDiT(SIZES[size]).state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise InputError(f"{path}: its weights are not those of this version's network; train the prior anew")
    return weights, tensors_hash(weights)
