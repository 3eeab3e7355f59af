"""Read a part of a diffusers checkpoint from local files. All names and shapes are checked before a tensor is loaded.

A part (``transformer``, ``vae``) is a folder as diffusers' ``save_pretrained`` writes it: ``config.json`` and
safetensors, in one file or in shards with an index. It may also be a single safetensors file. Nothing is ever
downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared_model.core.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
CONFIG = "config.json"
# The number formats that float32 holds exactly, by their names in safetensors. Others (float8) need extra scales.
_FORMATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Mapping[str, Tensor]):
    """Tensors by name. Each is read from its file, as float32, only when it is asked for.

    ``where`` names the part in errors. ``config`` is its ``config.json``, None for a single file, which has none.
    Reading a tensor raises InputError if it holds values that are not finite.
    """

    where: str
    config: Mapping[str, Any] | None
    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __getitem__(self, name: str) -> Tensor:
        path = self.files[name]
        try:
            with safe_open(path, "pt") as file:
                tensor = torch.as_tensor(file.get_tensor(name)).float()
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: tensor {name} cannot be read ({type(error).__name__}: {error})") from error
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name} holds values that are not finite; the file is damaged")
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor ``name``. InputError if there is no such tensor."""
        if name not in self.shapes:
            raise InputError(f"{self.where}: tensor {name} is missing; expected the names that diffusers writes")
        return self.shapes[name]

    def select(self, expected: Mapping[str, tuple[int, ...]], unused: Collection[str] = ()) -> Checkpoint:
        """Keep only the tensors ``expected`` (name -> shape). InputError names a missing, mis-shaped or unknown one.

        The names in ``unused`` may be in the checkpoint and are left out.
        """
        for name, shape in expected.items():
            if self.shape(name) != shape:
                raise InputError(f"{self.where}: tensor {name} has shape {self.shapes[name]}, expected {shape}")
        for name in self.files:
            if name not in expected and name not in unused:
                raise InputError(f"{self.where}: tensor {name} is unknown; this is another model than the expected one")
        return replace(self, files={n: self.files[n] for n in expected}, shapes={n: self.shapes[n] for n in expected})

    def whole(self, key: str) -> int:
        """The value of ``key`` in the configuration. InputError unless it is a positive whole number."""
        value = (self.config or {}).get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.where}: {CONFIG}: {key} is {value!r}, expected a positive whole number")
        return value


def locate(root: Path, part: str) -> Path:
    """Find the folder or file of ``part``: ``root/part`` or ``root/part.safetensors``.

    If ``root`` is a file, it is the transformer, and other parts are looked for beside it. InputError if nothing is
    found.
    """
    if root.is_file() and part == "transformer":
        return root
    if not root.exists():
        raise InputError(f"{root}: no such folder or file; expected Wan 2.1 in diffusers format (transformer/, vae/)")
    folder = root if root.is_dir() else root.parent
    for path in (folder / part, folder / f"{part}.safetensors"):
        if path.exists():
            return path
    raise InputError(f"{folder}: no {part}/ and no {part}.safetensors; expected Wan 2.1 in diffusers format")


def open_part(path: Path, class_name: str) -> Checkpoint:
    """Read configuration, names and shapes of the part at ``path``. InputError if it is no diffusers ``class_name``."""
    if path.is_file():
        return _open(path.name, None, {path: None})
    where = f"{path.parent.name}/{path.name}"
    config = _json(path / CONFIG)
    if config.get("_class_name") != class_name:
        found = config.get("_class_name")
        raise InputError(f"{path / CONFIG}: holds a model of class {found!r}, expected {class_name}")
    if (path / WEIGHTS).is_file():
        return _open(where, config, {path / WEIGHTS: None})
    if not (path / INDEX).is_file():
        raise InputError(f"{path}: no {WEIGHTS} and no {INDEX}; expected the weights as diffusers saves them")
    return _open(where, config, _shards(path / INDEX))


def _shards(index: Path) -> dict[Path, set[str] | None]:
    """Path of each shard -> names of the tensors that the index says it holds."""
    weight_map = _json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: no weight_map; expected names of tensors and their files")
    shards: dict[Path, set[str] | None] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{index}: tensor {name} lies in {file!r}; expected a file of the same folder")
        names = shards.setdefault(index.parent / file, set())
        assert names is not None
        names.add(name)
    return shards


def _open(where: str, config: Mapping[str, Any] | None, shards: Mapping[Path, set[str] | None]) -> Checkpoint:
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, promised in shards.items():
        found = _header(path)
        missing = sorted((promised or set()) - set(found))
        if missing:
            raise InputError(f"{path}: tensor {missing[0]} is missing, which {INDEX} says is here")
        for name, shape in found.items():
            if promised is None or name in promised:
                files[name], shapes[name] = path, shape
    return Checkpoint(where=where, config=config, files=files, shapes=shapes)


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of one file."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (a file, not a mapping)
            formats = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({type(error).__name__}: {error})") from error
    for name, kind in formats.items():
        if kind not in _FORMATS:
            raise InputError(f"{path}: tensor {name} is stored as {kind}; expected one of {', '.join(_FORMATS)}")
    return shapes


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a folder as diffusers saves it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object")
    return content


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 hex over names, shapes and float32 bytes, in name order.

    The same numbers give the same hash, however they are stored. Only one tensor is in memory at a time.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
