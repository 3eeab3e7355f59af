"""Turn a shared adapter into ONE flat float32 vector and back; read and write its file. Only this module knows how."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from shared_model.adapter.card import card_path, read_card
from shared_model.adapter.shared import adapted_model, holds_private, trainable
from shared_model.backbone.prior import prior_hash
from shared_model.base.interface import base_of
from shared_model.base.model import BASE_PREFIX, DoseModel
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec

FORMAT = "fedkt3d-adapter/1"


def pack(model: DoseModel) -> Vector:
    """The trainable parameters in module order as one float32 vector (d,). Bit-exact inverse of ``unpack``.

    Raises ValueError for a model with a private adapter, because what is packed may leave the site.
    """
    if holds_private(model):
        raise ValueError("a model with a private adapter is never packed; its weights stay at the site")
    return np.concatenate([p.detach().float().cpu().numpy().ravel() for p in trainable(model).values()])


def unpack(model: DoseModel, vector: Vector) -> None:
    """Copy a vector (d,) into the model's trainable parameters. Raises ValueError if its length is wrong."""
    parameters = trainable(model)
    size = sum(p.numel() for p in parameters.values())
    if vector.shape != (size,):
        raise ValueError(f"vector has shape {vector.shape}, the adapter {size} numbers")
    offset = 0
    with torch.no_grad():
        for parameter in parameters.values():
            part = vector[offset : offset + parameter.numel()]
            parameter.copy_(torch.from_numpy(np.array(part)).view_as(parameter))
            offset += parameter.numel()


def layout(spec: ModelSpec) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and shape of each array in the vector, in its order."""
    return _layout(spec)[0]


@lru_cache(maxsize=8)
def _layout(spec: ModelSpec) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], bytes]:
    model = adapted_model(spec)
    names = tuple((name, tuple(p.shape)) for name, p in trainable(model).items())
    return names, pack(model).tobytes()


def initial_vector(spec: ModelSpec) -> Vector:
    """The vector of the adapter before any training, (d,) float32."""
    return np.frombuffer(_layout(spec)[1], dtype=np.float32).copy()


def stage_mask(spec: ModelSpec, stage: str) -> NDArray[np.bool_]:
    """Which numbers of the vector a stage trains, (d,). Stage ``base`` trains the base; other stages, all the rest."""
    names, _ = _layout(spec)
    parts = [np.full(math.prod(shape), name.startswith(BASE_PREFIX) == (stage == "base")) for name, shape in names]
    return np.concatenate(parts)


def vector_bytes(spec: ModelSpec) -> int:
    """Bytes of the vector that a site gets and sends in each round. The message around it adds about a kilobyte."""
    return len(_layout(spec)[1])


def manifest_hash(spec: ModelSpec) -> str:
    """SHA-256 hex over prior, spec, and the names and shapes of what travels. Vectors fit if these hashes are equal."""
    names, _ = _layout(spec)
    content = {"prior": prior_hash(spec), "spec": spec.to_json(), "names": names}
    fixed = base_of(spec).fixed_hash()
    if fixed is not None:
        content["base"] = fixed
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def base_hash(spec: ModelSpec) -> str:
    """SHA-256 hex of the base's fixed part. ``none`` if it has no fixed part."""
    return base_of(spec).fixed_hash() or "none"


def rounded(vector: Vector) -> Vector:
    """The vector (d,) with each number rounded to bf16, so that its file is half as large."""
    return np.asarray(torch.from_numpy(vector).to(torch.bfloat16).float().numpy())


def vector_hash(vector: Vector) -> str:
    """SHA-256 hex of the vector's float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype=np.float32).tobytes()).hexdigest()


def tensors(spec: ModelSpec, vector: Vector) -> dict[str, Vector]:
    """The vector (d,) cut into one array for each parameter, by stored name. ValueError if its length is wrong."""
    names, _ = _layout(spec)
    found, offset = {}, 0
    for name, shape in names:
        size = math.prod(shape)
        found[name] = vector[offset : offset + size].reshape(shape)
        offset += size
    if offset != vector.size:
        raise ValueError(f"vector has {vector.size} numbers, the adapter {offset}")
    return found


def save_adapter(path: Path, spec: ModelSpec, vector: Vector) -> str:
    """Write the adapter as one safetensors file, whole or not at all. Returns the file's SHA-256 in hex.

    The file has one tensor for each parameter, of a pyramid in half the bytes where no bit is lost; the header holds
    the spec and hashes. The same spec and vector always give the same bytes. Everything else is in the card beside the
    file (shared_model/adapter/card.py).
    """
    header = {
        "format": FORMAT,
        "spec": spec.to_json(),
        "manifest": manifest_hash(spec),
        "prior": prior_hash(spec),
        "base": base_hash(spec),
    }
    content = _safetensors(tensors(spec, vector), header, small=spec.network == "pyramid")
    write_bytes(path, content, mode=ORDINARY)
    return hashlib.sha256(content).hexdigest()


def _safetensors(arrays: Mapping[str, Vector], metadata: Mapping[str, str], small: bool) -> bytes:
    """Serialise float32 arrays, those that bf16 holds exactly as bf16 if ``small``.

    The library's own writer would change the order of the metadata each time.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, offset = [], 0
    for name in sorted(arrays):
        bits = np.ascontiguousarray(arrays[name], dtype="<f4").view("<u4")
        halved = small and not (bits & 0xFFFF).any()
        raw = (bits >> 16).astype("<u2").tobytes() if halved else bits.tobytes()
        header[name] = {
            "dtype": "BF16" if halved else "F32",
            "shape": list(arrays[name].shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _spec_of(path: Path, text: str) -> ModelSpec:
    try:
        return ModelSpec.from_json(text)
    except InputError as error:
        raise InputError(f"adapter {path}: {error}") from error


def load_adapter(path: Path) -> tuple[ModelSpec, Vector, dict[str, Any]]:
    """Read an adapter: (spec, vector, card). InputError if it is unreadable or belongs to another prior.

    The card is read from the file beside the adapter. It is empty if that file is missing or another adapter's.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise InputError(f"adapter {path}: not a {FORMAT} file")
            spec = _spec_of(path, header["spec"])
            if header["prior"] != prior_hash(spec):
                raise InputError(
                    f"adapter {path}: trained on prior {header['prior'][:12]}, this installation has "
                    f"{prior_hash(spec)[:12]}; install the version of fedkt3d that the adapter's card names"
                )
            names, _ = _layout(spec)
            if set(file.keys()) != {name for name, _ in names} or header["manifest"] != manifest_hash(spec):
                raise InputError(f"adapter {path}: its parameters are not those of its spec; the file is damaged")
            vector = np.concatenate([file.get_tensor(name).float().numpy().ravel() for name, _ in names])
            card = read_card(card_path(path), vector_hash(vector))
            return spec, vector, card
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"adapter {path}: cannot be read as safetensors ({type(error).__name__})") from error
